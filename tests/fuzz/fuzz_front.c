// SRC: csrc/front/detect.c
/* pc_front_detect on any bytes: reads only them, and its verdict does not depend on how they arrive. */
#include "front/front.h"
#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        char *text = malloc(size ? size : 1); /* exact size, so that the sanitizer sees a byte too many */
        if (!text)
                return 0;
        memcpy(text, data, size);
        enum pc_front_kind all = pc_front_detect(text, size), sofar = PC_FRONT_MORE;
        for (size_t n = 0; n <= size && sofar == PC_FRONT_MORE; n++)
                sofar = pc_front_detect(text, n);
        if (sofar != all || (all == PC_FRONT_MORE && size >= 14))
                abort();
        free(text);
        return 0;
}
