#include "untar/idset.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct pc_idset {
        uint64_t *slot; /* id + 1; 0 is free */
        size_t room, n; /* room: a power of two */
        uint64_t last;
};

struct pc_idset *pc_idset_new(void) {
        struct pc_idset *s = calloc(1, sizeof *s);
        if (!s)
                return NULL;
        s->room = 64;
        s->slot = calloc(s->room, sizeof *s->slot);
        if (!s->slot) {
                free(s);
                return NULL;
        }
        return s;
}

void pc_idset_free(struct pc_idset *s) {
        if (!s)
                return;
        free(s->slot);
        free(s);
}

static void place(uint64_t *slot, size_t room, uint64_t key) {
        size_t i = (size_t) (key * 0x9e3779b97f4a7c15u >> 20) & (room - 1);
        while (slot[i] && slot[i] != key)
                i = (i + 1) & (room - 1);
        slot[i] = key;
}

int pc_idset_add(struct pc_idset *s, uint32_t id) {
        uint64_t key = (uint64_t) id + 1;
        if (s->last == key)
                return 0;
        size_t i = (size_t) (key * 0x9e3779b97f4a7c15u >> 20) & (s->room - 1);
        while (s->slot[i] && s->slot[i] != key)
                i = (i + 1) & (s->room - 1);
        s->last = key;
        if (s->slot[i])
                return 0;
        if ((s->n + 1) * 2 > s->room) {
                uint64_t *more = calloc(s->room * 2, sizeof *more);
                if (!more)
                        return -ENOMEM;
                for (size_t k = 0; k < s->room; k++)
                        if (s->slot[k])
                                place(more, s->room * 2, s->slot[k]);
                free(s->slot);
                s->slot = more;
                s->room *= 2;
        }
        place(s->slot, s->room, key);
        s->n++;
        return 0;
}

static int order(const void *a, const void *b) {
        uint32_t x = *(const uint32_t *) a, y = *(const uint32_t *) b;
        return x < y ? -1 : x > y;
}

uint32_t *pc_idset_sorted(const struct pc_idset *s, size_t *ret_n) {
        uint32_t *v = malloc((s->n ? s->n : 1) * sizeof *v);
        if (!v)
                return NULL;
        size_t n = 0;
        for (size_t i = 0; i < s->room; i++)
                if (s->slot[i])
                        v[n++] = (uint32_t) (s->slot[i] - 1);
        qsort(v, n, sizeof *v, order);
        *ret_n = n;
        return v;
}
