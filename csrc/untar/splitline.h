/* One line of tar-split metadata: JSON text -> values, in place. Pure. */
#pragma once
#include "common/err.h"
#include <stddef.h>
#include <stdint.h>

struct pc_split_line {
        int type; /* 1 file, 2 segment */
        const char *name;
        int64_t size;
        uint8_t *payload;
        size_t n_payload;
};

/* text (n bytes and a terminator, changed) must outlive *ret. -EBADMSG. Unknown members are skipped. */
int pc_split_line_parse(char *text, size_t n, struct pc_split_line *ret, struct pc_err *reterr);
