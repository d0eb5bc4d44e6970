#include "untar/ring.h"
#include <errno.h>
#include <stdlib.h>

struct pc_ring {
        pthread_mutex_t lock;
        pthread_cond_t filled, freed;
        uint8_t *mem;
        size_t *len, block_size;
        uint64_t head, tail[PC_RING_READERS]; /* counts of blocks published and released */
        unsigned blocks, readers, waiting_filled;
        bool ended, aborted, waiting_freed;
};

struct pc_ring *pc_ring_new(unsigned blocks, size_t block_size, unsigned readers) {
        struct pc_ring *r = calloc(1, sizeof *r);
        if (!r)
                return NULL;
        r->len = calloc(blocks, sizeof *r->len);
        if (!r->len || posix_memalign((void **) &r->mem, 4096, blocks * block_size) != 0) {
                free(r->len);
                free(r);
                return NULL;
        }
        r->blocks = blocks;
        r->block_size = block_size;
        r->readers = readers;
        (void) pthread_mutex_init(&r->lock, NULL);
        (void) pthread_cond_init(&r->filled, NULL);
        (void) pthread_cond_init(&r->freed, NULL);
        return r;
}

void pc_ring_free(struct pc_ring *r) {
        if (!r)
                return;
        (void) pthread_cond_destroy(&r->filled);
        (void) pthread_cond_destroy(&r->freed);
        (void) pthread_mutex_destroy(&r->lock);
        free(r->mem);
        free(r->len);
        free(r);
}

size_t pc_ring_block_size(const struct pc_ring *r) {
        return r->block_size;
}

static uint64_t oldest(const struct pc_ring *r) {
        uint64_t t = r->tail[0];
        for (unsigned i = 1; i < r->readers; i++)
                if (r->tail[i] < t)
                        t = r->tail[i];
        return t;
}

int pc_ring_claim(struct pc_ring *r, uint8_t **ret) {
        (void) pthread_mutex_lock(&r->lock);
        while (!r->aborted && r->head - oldest(r) == r->blocks) {
                r->waiting_freed = true;
                (void) pthread_cond_wait(&r->freed, &r->lock);
        }
        r->waiting_freed = false;
        bool aborted = r->aborted;
        if (!aborted)
                *ret = r->mem + (r->head % r->blocks) * r->block_size;
        (void) pthread_mutex_unlock(&r->lock);
        return aborted ? -ECANCELED : 0;
}

void pc_ring_publish(struct pc_ring *r, size_t n) {
        if (n == 0)
                return;
        (void) pthread_mutex_lock(&r->lock);
        r->len[r->head % r->blocks] = n;
        r->head++;
        if (r->waiting_filled)
                (void) pthread_cond_broadcast(&r->filled);
        (void) pthread_mutex_unlock(&r->lock);
}

void pc_ring_end(struct pc_ring *r) {
        (void) pthread_mutex_lock(&r->lock);
        r->ended = true;
        (void) pthread_cond_broadcast(&r->filled);
        (void) pthread_mutex_unlock(&r->lock);
}

int pc_ring_peek(struct pc_ring *r, unsigned reader, const uint8_t **ret, size_t *ret_n) {
        int result = 0;
        (void) pthread_mutex_lock(&r->lock);
        while (!r->aborted && !r->ended && r->tail[reader] == r->head) {
                r->waiting_filled++;
                (void) pthread_cond_wait(&r->filled, &r->lock);
                r->waiting_filled--;
        }
        if (r->aborted) {
                result = -ECANCELED;
        } else if (r->tail[reader] != r->head) {
                size_t i = r->tail[reader] % r->blocks;
                *ret = r->mem + i * r->block_size;
                *ret_n = r->len[i];
                result = 1;
        }
        (void) pthread_mutex_unlock(&r->lock);
        return result;
}

void pc_ring_release(struct pc_ring *r, unsigned reader) {
        (void) pthread_mutex_lock(&r->lock);
        r->tail[reader]++;
        if (r->waiting_freed)
                (void) pthread_cond_signal(&r->freed);
        (void) pthread_mutex_unlock(&r->lock);
}

void pc_ring_abort(struct pc_ring *r) {
        (void) pthread_mutex_lock(&r->lock);
        r->aborted = true;
        (void) pthread_cond_broadcast(&r->filled);
        (void) pthread_cond_broadcast(&r->freed);
        (void) pthread_mutex_unlock(&r->lock);
}
