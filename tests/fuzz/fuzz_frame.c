// SRC: csrc/logmux/frame.c
/* Framing of any bytes: stays inside its room, tears nothing, and what it makes parses back to what went in.
 * The first two bytes choose the room and whether the tail is flushed. */
#include "logmux/frame.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        static const char head[] = "2026-01-02T03:04:05.000000006+00:00 stderr F ";
        struct pc_line l;
        (void) pc_line_parse((const char *) data, size, &l);
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
