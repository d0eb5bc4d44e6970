/* tar-split metadata: one JSON object per line, segments (raw bytes) and files (name, size, CRC-64 of the content).
 * Field order and escaping follow Go's encoding/json, so that the lines equal those of containers/storage. */
#pragma once
#include "common/err.h"
#include "untar/ring.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pc_split;

/* text: where the lines go, as the single producer. */
struct pc_split *pc_split_new(struct pc_ring *text);
void pc_split_free(struct pc_split *s);

/* Collect raw archive bytes for the current segment; long ones become several segments. */
int pc_split_raw(struct pc_split *s, const void *p, size_t n);
/* End the segment, when it holds anything. */
int pc_split_segment(struct pc_split *s);
/* A file line; crc is used when size is not 0. Ends the segment before it. */
int pc_split_file(struct pc_split *s, const char *name, int64_t size, uint64_t crc);
/* Everything into the ring, and its end. */
int pc_split_finish(struct pc_split *s);

uint64_t pc_crc64(uint64_t crc, const void *p, size_t n);

/* Consumer stage: ring of text -> gzip -> descriptor. */
int pc_split_pack(struct pc_ring *text, int fd, struct pc_err *reterr);
