// SRC: csrc/task/wire.c
/* What a shim answers: any bytes, in any pieces. */
#include "task/task.h"
#include <stdlib.h>
#include <string.h>

static void inside(struct pc_bytes b, const char *from, size_t n) {
        if (b.n > 0 && (b.p < from || b.p + b.n > from + n))
                abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        char *text = malloc(size + 1);
        if (!text)
                abort();
        memcpy(text, data, size);
        for (size_t at = 0; at < size;) {
                struct pc_answer a;
                int64_t n = pc_rpc_answer(text + at, size - at, &a);
                if (n <= 0)
                        break;
                if ((size_t) n > size - at || n < PC_RPC_HEADER)
                        abort();
                inside(a.message, text + at, (size_t) n);
                inside(a.payload, text + at, (size_t) n);
                uint64_t v;
                (void) pc_rpc_number(a.payload, 1, &v);
                at += (size_t) n;
        }
        uint64_t v;
        (void) pc_rpc_number((struct pc_bytes){text, size}, 2, &v);
        free(text);
        return 0;
}
