/* Calls of a containerd shim (runtime v2), as bytes: a ttrpc header (length, stream, big-endian u32; type, flags, u8),
 * then an envelope, then the message. Pure: no I/O, no allocation. Names point into the caller's bytes. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define PC_RPC_HEADER 10
#define PC_RPC_MAX (4u << 20)  /* the most of a message, as ttrpc has it */
#define PC_RPC_CALL_EXTRA 128u /* bytes that pc_rpc_call puts around a payload */
#define PC_ID_MAX 128          /* the longest name of a container */

struct pc_bytes {
        const char *p;
        size_t n;
};

/* A call of the shim's service (containerd.task.v2.Task or v3). Bytes written, 0 when they do not fit. */
size_t pc_rpc_call(char *out, size_t cap, uint32_t stream, const char *const name[2], struct pc_bytes payload);

/* The messages of calls on a container's first process. Bytes written, 0 when they do not fit. */
size_t pc_rpc_container(char *out, size_t cap, const char *id);
size_t pc_rpc_resize(char *out, size_t cap, const char *id, unsigned width, unsigned height);
size_t pc_rpc_close_stdin(char *out, size_t cap, const char *id);

struct pc_answer {
        uint32_t stream;
        bool is_answer; /* false: something that nobody asked for */
        int64_t code;   /* gRPC status, 0: well */
        struct pc_bytes message, payload;
};

/* The first message of in[0..n). Its length, 0 while it is incomplete, -EMSGSIZE beyond the limit, -EBADMSG. */
int64_t pc_rpc_answer(const char *in, size_t n, struct pc_answer *ret);

/* A number of a message by its field; false when the message has none. */
bool pc_rpc_number(struct pc_bytes message, unsigned field, uint64_t *ret);

/* dead.c */
int pc_dead_shim(void); /* runs the shim's own clean-up; the exit code that it reports, 255 when it fails */
