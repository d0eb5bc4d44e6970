/* Wall clock in local time: one clock read per batch, the zone's offset looked up once a quarter of an hour. */
#pragma once
#include "logmux/frame.h"

struct pc_clock {
        int64_t quarter; /* sec / 900 for which gmtoff holds */
        int32_t gmtoff;
};

/* The zone changes on quarters of an hour at most (zoneinfo's rule for every zone since 1972). */
void pc_clock_init(struct pc_clock *c);
void pc_clock_head(struct pc_clock *c, enum pc_stream stream, char out[PC_HEAD_LEN]);
