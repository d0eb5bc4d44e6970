// SRC: csrc/mounts/mountinfo.c
/* Lines of mountinfo on any bytes: stays inside the line, and the verdict is that of a plain reading of its words. The
 * input is a file of lines; the mount asked for is that of the first line that starts with a number. */
#include "mounts/api.h"
#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int plainly(const char *line, size_t n, const char **ret_kind) {
        int words = 0, found = 0;
        for (size_t at = 0; at <= n; words++) {
                size_t k = at;
                while (k < n && line[k] != ' ')
                        k++;
                if (k == at)
                        return -EBADMSG;
                const char *w = line + at;
                if (words >= 6) {
                        if (k - at == 1 && *w == '-') {
                                *ret_kind = found & 1   ? "shared"
                                            : found & 2 ? "slave"
                                            : found     ? "unbindable"
                                                        : "private";
                                return 0;
                        }
                        found |= k - at >= 7 && memcmp(w, "shared:", 7) == 0        ? 1
                                 : k - at >= 7 && memcmp(w, "master:", 7) == 0      ? 2
                                 : k - at == 10 && memcmp(w, "unbindable", 10) == 0 ? 4
                                                                                    : 0;
                }
                at = k + 1;
        }
        return -EBADMSG;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        uint64_t id = UINT64_MAX;
        for (size_t at = 0; at < size;) {
                const uint8_t *end = memchr(data + at, '\n', size - at);
                size_t n = end ? (size_t) (end - data) - at : size - at;
                char *line = malloc(n + 1), number[24]; /* exact size, so that the sanitizer sees a byte too many */
                if (!line)
                        return 0;
                memcpy(line, data + at, n);
                size_t digits = 0;
                while (digits < n && digits < sizeof number - 1 && line[digits] >= '0' && line[digits] <= '9')
                        digits++;
                memcpy(number, line, digits);
                number[digits] = '\0';
                if (id == UINT64_MAX && digits > 0)
                        id = strtoull(number, NULL, 10);
                const char *kind = NULL, *want = NULL;
                int r = pc_mountinfo_propagation(line, n, id, &kind);
                if (r == -ENOENT) {
                        if (kind || (digits > 0 && digits < 19 && (digits == n || line[digits] == ' ') &&
                                     strtoull(number, NULL, 10) == id))
                                abort();
                } else if (r != plainly(line, n, &want) || (kind != want && strcmp(kind, want) != 0)) {
                        abort();
                }
                line[n] = '\n'; /* with its newline it is the same line */
                if (pc_mountinfo_propagation(line, n + 1, id, &want) != r || want != kind)
                        abort();
                free(line);
                at += n + 1;
        }
        return 0;
}
