// SRC: csrc/logmux/frame.c
/* Framing of any bytes: stays inside its room, tears nothing, and what it makes parses back to what went in.
 * The first two bytes choose the room and whether the tail is flushed. */
#include "logmux/frame.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
/* Any moment in any zone: what is stamped is read as that moment, as far as the format has room for it. */
static void stamps(const uint8_t *data) {
        int64_t sec;
        uint32_t nsec;
        int32_t gmtoff;
        char text[PC_HEAD_LEN + 1];
        struct pc_line l;
        memcpy(&sec, data, sizeof sec);
        memcpy(&nsec, data + 8, sizeof nsec);
        memcpy(&gmtoff, data + 12, sizeof gmtoff);
        sec >>= data[0] % 40; /* small ones as well */
        nsec %= 1000000000;
        gmtoff = gmtoff % 1440 * 60;
        pc_head(text, sec, nsec, gmtoff, data[1] & 1 ? PC_STDERR : PC_STDOUT);
        text[PC_HEAD_LEN] = '\n';
        if (pc_line_parse(text, sizeof text, &l) < 0 || l.nsec != nsec || l.gmtoff != gmtoff || l.partial ||
            l.len != 0 || l.stream != (data[1] & 1 ? PC_STDERR : PC_STDOUT))
                abort();
        bool fits = sec > -62167219200 + 86400 && sec < 253402300799 - 86400;
        if (fits && l.sec != sec)
                abort();
}

/* Stamps of other writers: what follows a good beginning. */
static void other_stamps(const uint8_t *data, size_t size) {
        static const char begin[] = "2024-02-29T23:59:60";
        struct pc_line l;
        size_t n = sizeof begin - 1 + size;
        char *text = malloc(n);
        if (!text)
                abort();
        memcpy(text, begin, sizeof begin - 1);
        if (size > 0)
                memcpy(text + sizeof begin - 1, data, size);
        if (pc_line_parse(text, n, &l) == 0 && (l.data < text || l.data + l.len > text + n || l.nsec >= 1000000000 ||
                                                l.gmtoff <= -86400 || l.gmtoff >= 86400))
                abort();
        free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static const char head[] = "2026-01-02T03:04:05.000000006+00:00 stderr F ";
        struct pc_line l;
        (void) pc_line_parse((const char *) data, size, &l);
        other_stamps(data, size);
        if (size >= 16)
                stamps(data);
        if (size < 2)
                return 0;
        struct pc_frame_limits limits = {
            .cap = PC_LINE_MAX + data[0] * 37u, .stop = data[1] < 128 ? data[1] * 11u : SIZE_MAX, .flush = data[0] & 1};
        size_t n = size - 2, at = 0, back = 0;
        char *in = malloc(n + 1), *out = malloc(limits.cap), *again = malloc(n + 1);
        if (!in || !out || !again)
                abort();
        memcpy(in, data + 2, n);
        while (at < n) {
                size_t used = 0, made = pc_frame(head, in + at, n - at, &limits, out, &used);
                if (made > limits.cap || used > n - at || (made == 0) != (used == 0))
                        abort();
                if (made == 0)
                        break;
                if (out[made - 1] != '\n')
                        abort();
                for (size_t i = 0; i < made;) {
                        size_t len = (size_t) ((char *) memchr(out + i, '\n', made - i) - (out + i));
                        if (pc_line_parse(out + i, len, &l) < 0 || l.stream != PC_STDERR || l.sec != 1767323045 ||
                            l.nsec != 6 || l.len > PC_PIECE_MAX || back + l.len + !l.partial > n)
                                abort();
                        memcpy(again + back, l.data, l.len);
                        back += l.len;
                        if (!l.partial)
                                again[back++] = '\n';
                        i += len + 1;
                }
                at += used;
        }
        if (back != at || memcmp(in, again, at) != 0)
                abort();
        if (limits.stop > 0 && limits.flush && at != n)
                abort();
        free(in);
        free(out);
        free(again);
        return 0;
}
