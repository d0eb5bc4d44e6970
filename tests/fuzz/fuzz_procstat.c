// SRC: csrc/proc/wait.c
/* pc_parse_stat on any bytes: stays inside them, and what it accepts has the fields that a plain reading finds. */
#include "proc/proc.h"
#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        char *text = malloc(size + 1); /* exact size, so that the sanitizer sees a byte too many */
        if (!text)
                return 0;
        memcpy(text, data, size);
        struct pc_stat st = {0};
        if (pc_parse_stat(text, size, &st) == 0) {
                text[size] = '\0';
                const char *end = memrchr(text, ')', size);
                int word = 0;
                for (const char *p = end; *p && word < 20; p++)
                        if (*p == ' ' && ++word == 20)
                                if (strtoull(p + 1, NULL, 10) != st.start_time || st.state != end[2])
                                        abort();
        }
        free(text);
        return 0;
}
