#include "logmux/frame.h"

#include <errno.h>
#include <string.h>

static void digits(char *p, unsigned v, int n) {
        while (n-- > 0) {
                p[n] = (char) ('0' + v % 10);
                v /= 10;
        }
}

/* Proleptic Gregorian date of a day number since 1970-01-01, by eras of 400 years that begin on 1 March. */
static void civil(int64_t days, int *ret_year, unsigned *ret_month, unsigned *ret_day) {
        int64_t z = days + 719468;
        int64_t era = (z >= 0 ? z : z - 146096) / 146097;
        unsigned doe = (unsigned) (z - era * 146097);
        unsigned yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
        unsigned doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        unsigned mp = (5 * doy + 2) / 153;
        *ret_day = doy - (153 * mp + 2) / 5 + 1;
        *ret_month = mp < 10 ? mp + 3 : mp - 9;
        *ret_year = (int) ((int64_t) yoe + era * 400) + (*ret_month <= 2);
}

static int64_t days_of(int64_t year, unsigned month, unsigned day) {
        year -= month <= 2;
        int64_t era = (year >= 0 ? year : year - 399) / 400;
        unsigned yoe = (unsigned) (year - era * 400);
        unsigned doy = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
        unsigned doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
        return era * 146097 + (int64_t) doe - 719468;
}

void pc_stamp(char out[PC_STAMP_LEN], int64_t sec, uint32_t nsec, int32_t gmtoff) {
        const int64_t least = -62167219200, most = 253402300799; /* 0000-01-01, 9999-12-31T23:59:59 */
        int64_t local = sec < least ? least : sec > most ? most : sec;
        local += gmtoff;
        local = local < least ? least : local > most ? most : local;

        int64_t day = local / 86400;
        unsigned rest = (unsigned) (local - day * 86400);
        if (local < 0 && local % 86400 != 0) {
                day--;
                rest = (unsigned) (local - day * 86400);
        }
        int year;
        unsigned month, mday;
        civil(day, &year, &month, &mday);
        digits(out, (unsigned) year, 4);
        out[4] = '-';
        digits(out + 5, month, 2);
        out[7] = '-';
        digits(out + 8, mday, 2);
        out[10] = 'T';
        digits(out + 11, rest / 3600, 2);
        out[13] = ':';
        digits(out + 14, rest / 60 % 60, 2);
        out[16] = ':';
        digits(out + 17, rest % 60, 2);
        out[19] = '.';
        digits(out + 20, nsec, 9);
        out[29] = gmtoff < 0 ? '-' : '+';
        unsigned off = (unsigned) (gmtoff < 0 ? -(int64_t) gmtoff : gmtoff);
        digits(out + 30, off / 3600, 2);
        out[32] = ':';
        digits(out + 33, off / 60 % 60, 2);
}

void pc_head(char out[PC_HEAD_LEN], int64_t sec, uint32_t nsec, int32_t gmtoff, enum pc_stream stream) {
        pc_stamp(out, sec, nsec, gmtoff);
        memcpy(out + PC_STAMP_LEN, stream == PC_STDERR ? " stderr F " : " stdout F ", 10);
}

#ifdef __SSE2__
#include <emmintrin.h>

/* Both at once: bytes behind the newline may be copied as well, never more than n. */
static const char *copy_line(char *out, const char *in, size_t n) {
        const __m128i newline = _mm_set1_epi8('\n');
        size_t i = 0;
        for (; i + 16 <= n; i += 16) {
                __m128i block = _mm_loadu_si128((const __m128i *) (in + i));
                _mm_storeu_si128((__m128i *) (out + i), block);
                unsigned found = (unsigned) _mm_movemask_epi8(_mm_cmpeq_epi8(block, newline));
                if (found)
                        return in + i + __builtin_ctz(found);
        }
        for (; i < n; i++)
                if ((out[i] = in[i]) == '\n')
                        return in + i;
        return NULL;
}
#else
static const char *copy_line(char *out, const char *in, size_t n) {
        const char *newline = memchr(in, '\n', n);
        memcpy(out, in, newline ? (size_t) (newline - in) + 1 : n);
        return newline;
}
#endif

size_t pc_frame(const char head[PC_HEAD_LEN], const char *in, size_t n, const struct pc_frame_limits *l, char *out,
                size_t *ret_used) {
        const char *p = in, *end = in + n;
        char *o = out, *cap = out + l->cap, *stop = l->stop < l->cap ? out + l->stop : cap;

        while (p < end && o < stop && (size_t) (cap - o) > PC_HEAD_LEN) {
                size_t left = (size_t) (end - p), room = (size_t) (cap - o) - PC_HEAD_LEN;
                size_t reach = left < PC_PIECE_MAX + 1 ? left : PC_PIECE_MAX + 1;
                const char *nl = copy_line(o + PC_HEAD_LEN, p, reach < room ? reach : room);
                size_t len; /* content */
                if (nl)
                        len = (size_t) (nl - p);
                else if (left >= PC_PIECE_MAX)
                        len = PC_PIECE_MAX;
                else if (l->flush)
                        len = left;
                else
                        break;
                /* A full piece at the very end may be ended by a newline that is still to come: wait for it. */
                if (!nl && !l->flush && left == PC_PIECE_MAX)
                        break;
                if (room < len + 1)
                        break;
                memcpy(o, head, PC_HEAD_LEN);
                p += len;
                if (nl)
                        p++;
                else {
                        o[PC_HEAD_LEN - 2] = 'P';
                        o[PC_HEAD_LEN + len] = '\n';
                }
                o += PC_HEAD_LEN + len + 1;
        }
        *ret_used = (size_t) (p - in);
        return (size_t) (o - out);
}

static bool number(const char *p, int n, unsigned *ret) {
        unsigned v = 0;
        for (int i = 0; i < n; i++) {
                if (p[i] < '0' || p[i] > '9')
                        return false;
                v = v * 10 + (unsigned) (p[i] - '0');
        }
        *ret = v;
        return true;
}

/* The stamp of variable length at the head of a line; its length, or 0. */
static size_t parse_stamp(const char *p, size_t n, struct pc_line *r) {
        unsigned year, month, day, hour, min, sec, oh = 0, om = 0;
        if (n < 20 || !number(p, 4, &year) || p[4] != '-' || !number(p + 5, 2, &month) || p[7] != '-' ||
            !number(p + 8, 2, &day) || p[10] != 'T' || !number(p + 11, 2, &hour) || p[13] != ':' ||
            !number(p + 14, 2, &min) || p[16] != ':' || !number(p + 17, 2, &sec))
                return 0;
        if (month < 1 || month > 12 || day < 1 || day > 31 || hour > 23 || min > 59 || sec > 60)
                return 0;
        size_t i = 19;
        uint32_t nsec = 0;
        if (p[i] == '.') {
                uint32_t scale = 100000000;
                size_t from = ++i;
                for (; i < n && p[i] >= '0' && p[i] <= '9'; i++) {
                        if (i - from >= 9)
                                return 0;
                        nsec += scale * (uint32_t) (p[i] - '0');
                        scale /= 10;
                }
                if (i == from)
                        return 0;
        }
        int sign = 1;
        if (i < n && p[i] == 'Z')
                i++;
        else if (n - i >= 6 && (p[i] == '+' || p[i] == '-') && number(p + i + 1, 2, &oh) && p[i + 3] == ':' &&
                 number(p + i + 4, 2, &om) && oh <= 23 && om <= 59) {
                sign = p[i] == '-' ? -1 : 1;
                i += 6;
        } else
                return 0;
        r->gmtoff = sign * (int32_t) (oh * 3600 + om * 60);
        r->nsec = nsec;
        r->sec = days_of((int64_t) year, month, day) * 86400 + (int64_t) (hour * 3600 + min * 60 + sec) - r->gmtoff;
        return i;
}

int pc_line_parse(const char *in, size_t n, struct pc_line *ret) {
        struct pc_line r = {0};
        if (n > 0 && in[n - 1] == '\n')
                n--;
        size_t i = parse_stamp(in, n, &r);
        if (i == 0 || n - i < 10 || memcmp(in + i, " std", 4) != 0)
                return -EBADMSG;
        if (memcmp(in + i + 4, "out ", 4) == 0)
                r.stream = PC_STDOUT;
        else if (memcmp(in + i + 4, "err ", 4) == 0)
                r.stream = PC_STDERR;
        else
                return -EBADMSG;
        i += 8;
        const char *blank = memchr(in + i, ' ', n - i);
        if (!blank || (in[i] != 'F' && in[i] != 'P') || (in[i + 1] != ' ' && in[i + 1] != ':'))
                return -EBADMSG;
        r.partial = in[i] == 'P';
        r.data = blank + 1;
        r.len = (size_t) (in + n - r.data);
        *ret = r;
        return 0;
}
