#include "logmux/clock.h"

#include <time.h>

void pc_clock_init(struct pc_clock *c) {
        tzset();
        c->quarter = INT64_MIN;
        c->gmtoff = 0;
}

void pc_clock_head(struct pc_clock *c, enum pc_stream stream, char out[PC_HEAD_LEN]) {
        struct timespec ts;
        (void) clock_gettime(CLOCK_REALTIME, &ts); /* cannot fail for this clock */
        int64_t quarter = ts.tv_sec / 900;
        if (quarter != c->quarter) {
                struct tm tm;
                c->gmtoff = localtime_r(&ts.tv_sec, &tm) ? (int32_t) tm.tm_gmtoff : 0;
                c->quarter = quarter;
        }
        pc_head(out, ts.tv_sec, (uint32_t) ts.tv_nsec, c->gmtoff, stream);
}
