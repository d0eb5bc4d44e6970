/* Bounded ring of blocks between threads: one producer, a fixed number of consumers that each see every block. */
#pragma once
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PC_RING_READERS = 3 };

struct pc_ring;

struct pc_ring *pc_ring_new(unsigned blocks, size_t block_size, unsigned readers);
void pc_ring_free(struct pc_ring *r);
size_t pc_ring_block_size(const struct pc_ring *r);

/* Producer: a free block (waits), then its length. -ECANCELED after an abort. Publishing 0 bytes is a no-op. */
int pc_ring_claim(struct pc_ring *r, uint8_t **ret);
void pc_ring_publish(struct pc_ring *r, size_t n);
void pc_ring_end(struct pc_ring *r);

/* Consumer: 1 and the oldest unseen block, which stays valid until released; 0 at the end; -ECANCELED. */
int pc_ring_peek(struct pc_ring *r, unsigned reader, const uint8_t **ret, size_t *ret_n);
void pc_ring_release(struct pc_ring *r, unsigned reader);

/* Every waiting and later call fails with -ECANCELED. */
void pc_ring_abort(struct pc_ring *r);
