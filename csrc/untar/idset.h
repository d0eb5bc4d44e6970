/* A set of 32-bit ids; images have a handful, hostile ones as many as entries. */
#pragma once
#include <stddef.h>
#include <stdint.h>

struct pc_idset;
struct pc_idset *pc_idset_new(void);
void pc_idset_free(struct pc_idset *s);
/* 0 or -ENOMEM. */
int pc_idset_add(struct pc_idset *s, uint32_t id);
/* Sorted, malloc'ed (also when empty); NULL without memory. */
uint32_t *pc_idset_sorted(const struct pc_idset *s, size_t *ret_n);
