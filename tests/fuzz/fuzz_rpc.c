// SRC: csrc/rpc/*.c
// LIBS: -lnghttp2
/* Any bytes after the preface on a connection whose calls are all answered: first byte says how. */
#include "rpc/rpc.h"
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static const char PREFACE[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0"; /* and empty settings */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        const struct pc_rpc_limits limits = {1 << 16, 1 << 18, 4096, 1 << 16, 32};
        struct pc_rpc *c = NULL;
        struct pc_rpc_event e;
        struct pc_err err;
        int fds[2];
        char sink[4096];
        size_t waiting, at = 0;
        if (size < 1 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
                return 0;
        if (pc_rpc_new(fds[1], PREFACE, sizeof PREFACE, &limits, &c, &err) < 0)
                abort();
        unsigned how = data[0], running = 0;
        data++, size--;
        for (int flags = 0; !(flags & PC_RPC_OVER);) {
                size_t n = size - at < 1500 ? size - at : 1500;
                if (n > 0 && send(fds[0], data + at, n, MSG_NOSIGNAL) == (ssize_t) n)
                        at += n;
                else if (n == 0)
                        (void) shutdown(fds[0], SHUT_WR);
                flags = pc_rpc_pump(c);
                while (pc_rpc_next(c, &e)) {
                        running += e.kind == PC_RPC_CALL ? 1 : (unsigned) -1;
                        if (e.kind == PC_RPC_CANCEL)
                                continue;
                        if (strlen(e.path) > 4096 || (e.message_len > 0 && ((const char *) e.message)[0] == 'z'))
                                (void) pc_rpc_waiting(c, e.stream);
                        int32_t id = e.stream;
                        if (how & 1)
                                (void) pc_rpc_send(c, id, sink, 64 + how, &waiting, &err);
                        if (how & 2)
                                (void) pc_rpc_flush(c);
                        if (!(how & 4)) {
                                (void) pc_rpc_finish(c, id, how & 8 ? 13 : 0, how & 16 ? "a\xff%" : NULL, &err);
                                running--;
                        }
                }
                if (how & 32)
                        pc_rpc_goaway(c);
                while (read(fds[0], sink, sizeof sink) > 0)
                        ;
        }
        while (pc_rpc_next(c, &e))
                running += e.kind == PC_RPC_CALL ? 1 : (unsigned) -1;
        if (pc_rpc_running(c) != 0)
                abort();
        (void) running;
        pc_rpc_free(c);
        close(fds[0]);
        return 0;
}
