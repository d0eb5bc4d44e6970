// SRC: csrc/rpc/*.c
// LIBS: -lnghttp2
/* Calls on a socket pair, the client's side played by libnghttp2. */
#include "common/fd.h"
#include "rpc/rpc.h"
#include "tap.h"
#include <fcntl.h>
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <sys/socket.h>

/* --- the client -------------------------------------------------------------------------------------------------- */

struct reply {
        int32_t id;
        char body[1 << 16];
        size_t len;
        char http[8], status[8], message[512];
        bool closed;
        uint32_t reset;
};

struct request {
        const char *bytes;
        size_t len, at;
        bool open; /* more may come: no END_STREAM */
};

struct rig {
        int fd;
        nghttp2_session *client;
        struct pc_rpc *server;
        struct reply replies[8];
        unsigned n;
        bool goaway;
};

static struct reply *of(struct rig *r, int32_t id) {
        for (unsigned i = 0; i < r->n; i++)
                if (r->replies[i].id == id)
                        return &r->replies[i];
        if (r->n == 8)
                abort();
        memset(&r->replies[r->n], 0, sizeof r->replies[0]);
        r->replies[r->n].id = id;
        return &r->replies[r->n++];
}

static int on_header(nghttp2_session *s, const nghttp2_frame *f, const uint8_t *name, size_t n, const uint8_t *value,
                     size_t v, uint8_t flags, void *data) {
        struct reply *a = of(data, f->hd.stream_id);
        (void) s, (void) flags;
        if (n == 7 && memcmp(name, ":status", 7) == 0)
                snprintf(a->http, sizeof a->http, "%.*s", (int) v, (const char *) value);
        if (n == 11 && memcmp(name, "grpc-status", 11) == 0)
                snprintf(a->status, sizeof a->status, "%.*s", (int) v, (const char *) value);
        if (n == 12 && memcmp(name, "grpc-message", 12) == 0)
                snprintf(a->message, sizeof a->message, "%.*s", (int) v, (const char *) value);
        return 0;
}

static int on_chunk(nghttp2_session *s, uint8_t flags, int32_t id, const uint8_t *bytes, size_t n, void *data) {
        struct reply *a = of(data, id);
        (void) s, (void) flags;
        size_t room = sizeof a->body - a->len;
        memcpy(a->body + a->len, bytes, n < room ? n : room);
        a->len += n < room ? n : room;
        return 0;
}

static int on_close(nghttp2_session *s, int32_t id, uint32_t code, void *data) {
        struct reply *a = of(data, id);
        (void) s;
        a->closed = true;
        a->reset = code;
        return 0;
}

static int on_frame(nghttp2_session *s, const nghttp2_frame *f, void *data) {
        (void) s;
        if (f->hd.type == NGHTTP2_GOAWAY)
                ((struct rig *) data)->goaway = true;
        return 0;
}

static ssize_t on_read(nghttp2_session *s, int32_t id, uint8_t *buf, size_t len, uint32_t *flags,
                       nghttp2_data_source *source, void *data) {
        struct request *q = source->ptr;
        (void) s, (void) id, (void) data;
        size_t n = q->len - q->at < len ? q->len - q->at : len;
        if (n == 0 && q->open)
                return NGHTTP2_ERR_DEFERRED;
        memcpy(buf, q->bytes + q->at, n);
        q->at += n;
        if (q->at == q->len && !q->open)
                *flags |= NGHTTP2_DATA_FLAG_EOF;
        return (ssize_t) n;
}

static void rig_start(struct pc_rpc_limits limits, struct rig *r) {
        int fds[2];
        struct pc_err err;
        memset(r, 0, sizeof *r);
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0 ||
            pc_rpc_new(fds[1], "", 0, &limits, &r->server, &err) < 0)
                abort();
        r->fd = fds[0];
        nghttp2_session_callbacks *c;
        nghttp2_session_callbacks_new(&c);
        nghttp2_session_callbacks_set_on_header_callback(c, on_header);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(c, on_chunk);
        nghttp2_session_callbacks_set_on_stream_close_callback(c, on_close);
        nghttp2_session_callbacks_set_on_frame_recv_callback(c, on_frame);
        nghttp2_session_client_new(&r->client, c, r);
        nghttp2_session_callbacks_del(c);
        nghttp2_submit_settings(r->client, 0, NULL, 0);
}

static const struct pc_rpc_limits LIMITS = {1 << 20, 4 << 20, 4096, 1 << 20, 10};

static void rig_end(struct rig *r) {
        nghttp2_session_del(r->client);
        pc_closep(&r->fd);
        r->server = pc_rpc_free(r->server);
}

/* Both sides until nothing moves. The server's last flags. */
static int turn(struct rig *r) {
        int flags = 0;
        for (bool moved = true; moved;) {
                moved = false;
                const uint8_t *out;
                ssize_t n;
                while (r->fd >= 0 && (n = nghttp2_session_mem_send(r->client, &out)) > 0) {
                        moved = true;
                        for (ssize_t at = 0; at < n;) {
                                ssize_t w = send(r->fd, out + at, (size_t) (n - at), MSG_NOSIGNAL);
                                if (w > 0)
                                        at += w;
                                else if (errno == EAGAIN)
                                        flags = pc_rpc_pump(r->server);
                                else
                                        at = n;
                        }
                }
                flags = pc_rpc_pump(r->server);
                uint8_t in[4096];
                while (r->fd >= 0 && (n = read(r->fd, in, sizeof in)) > 0) {
                        moved = true;
                        if (nghttp2_session_mem_recv(r->client, in, (size_t) n) < 0)
                                abort();
                }
        }
        return flags;
}

#define NV(n, v)                                                                                                       \
        (nghttp2_nv) {                                                                                                 \
                (uint8_t *) (n), (uint8_t *) (v), strlen(n), strlen(v), NGHTTP2_NV_FLAG_NONE                           \
        }

static int32_t ask(struct rig *r, const char *path, struct request *q, const char *name, const char *value) {
        nghttp2_nv nv[] = {NV(":method", strcmp(path, "GET") ? "POST" : "GET"),
                           NV(":scheme", "http"),
                           NV(":path", path),
                           NV(":authority", "/run/crio/crio.sock"),
                           NV("te", "trailers"),
                           NV("content-type", "application/grpc"),
                           NV(name, value)};
        if (strcmp(name, "content-type") == 0)
                nv[5] = nv[6];
        nghttp2_data_provider p = {.source.ptr = q, .read_callback = on_read};
        return nghttp2_submit_request(r->client, NULL, nv, name[0] ? 7 : 6, q ? &p : NULL, NULL);
}

static struct request message(char *room, const char *text) {
        size_t n = strlen(text);
        char head[5] = {0, 0, 0, (char) (n >> 8), (char) n};
        memcpy(room, head, 5);
        memcpy(room + 5, text, n);
        return (struct request){.bytes = room, .len = n + 5};
}

static bool answered(const struct reply *a, const char *status) {
        return a->closed && strcmp(a->status, status) == 0 && strcmp(a->http, "200") == 0;
}

/* --- tests ------------------------------------------------------------------------------------------------------- */

static void test_pure(void) {
        char out[64];
        ok(pc_rpc_timeout("10S", 3) == INT64_C(10000000000) && pc_rpc_timeout("1n", 2) == 1 &&
               pc_rpc_timeout("2u", 2) == 2000 && pc_rpc_timeout("3m", 2) == 3000000 &&
               pc_rpc_timeout("4M", 2) == INT64_C(240000000000) && pc_rpc_timeout("1H", 2) == INT64_C(3600000000000),
           "time-outs in every unit");
        ok(pc_rpc_timeout("99999999H", 9) == INT64_MAX && pc_rpc_timeout("123456789S", 10) == -1 &&
               pc_rpc_timeout("S", 1) == -1 && pc_rpc_timeout("", 0) == -1 && pc_rpc_timeout("1x", 2) == -1 &&
               pc_rpc_timeout("-1S", 3) == -1,
           "too long ones are clamped, false ones none");
        size_t n = pc_rpc_encode("a%\xc3\xa4\n~", 6, out);
        ok(n == 14 && memcmp(out, "a%25%C3%A4%0A~", 14) == 0, "texts are encoded");
}

static void test_unary(void) {
        static struct rig r;
        struct pc_rpc_event e;
        struct pc_err err;
        char room[64];
        size_t waiting;
        rig_start(LIMITS, &r);
        struct request q = message(room, "hello");
        int32_t id = ask(&r, "/s/M", &q, "traceparent", "00-1");
        int32_t second = ask(&r, "/s/N", &q, "grpc-timeout", "5S");
        q.at = 0;
        turn(&r);
        bool got = pc_rpc_next(r.server, &e);
        ok(got && e.kind == PC_RPC_CALL && e.stream == id && strcmp(e.path, "/s/M") == 0 && e.message_len == 5 &&
               memcmp(e.message, "hello", 5) == 0 && e.timeout_ns == -1,
           "a call arrives, whatever the authority");
        ok(e.metadata_len == 17 && memcmp(e.metadata,
                                          "traceparent\0"
                                          "00-1",
                                          17) == 0,
           "with the caller's metadata only");
        (void) second;
        ok(pc_rpc_send(r.server, id, "world", 5, &waiting, &err) == 0 && waiting == 10 &&
               pc_rpc_finish(r.server, id, 0, NULL, &err) == 0,
           "is answered");
        turn(&r);
        struct reply *a = of(&r, id);
        ok(answered(a, "0") && a->len == 10 && memcmp(a->body, "\0\0\0\0\5world", 10) == 0 && a->message[0] == '\0',
           "the answer arrives with its status");
        rig_end(&r);

        rig_start(LIMITS, &r);
        q = message(room, "");
        id = ask(&r, "/s/N", &q, "grpc-timeout", "5S");
        turn(&r);
        got = pc_rpc_next(r.server, &e);
        ok(got && e.message_len == 0 && e.timeout_ns == INT64_C(5000000000) && e.metadata_len == 0,
           "an empty message, a deadline");
        ok(pc_rpc_running(r.server) == 1 && pc_rpc_finish(r.server, id, 5, "no \xc3\xbc", &err) == 0 &&
               pc_rpc_running(r.server) == 0,
           "counted while it runs");
        turn(&r);
        a = of(&r, id);
        ok(answered(a, "5") && a->len == 0 && strcmp(a->message, "no %C3%BC") == 0, "a status without a message");
        ok(pc_rpc_send(r.server, id, "x", 1, &waiting, &err) == 0 && waiting == 0 &&
               pc_rpc_finish(r.server, id, 0, NULL, &err) == 0 && pc_rpc_waiting(r.server, 99) == 0,
           "of calls that have gone nothing comes");
        rig_end(&r);
}

static void refused(const char *what, struct pc_rpc_limits limits, const char *path, struct request q, const char *name,
                    const char *value, const char *status, const char *text) {
        static struct rig r;
        struct pc_rpc_event e;
        rig_start(limits, &r);
        int32_t id = ask(&r, path, &q, name, value);
        turn(&r);
        struct reply *a = of(&r, id);
        bool good = !pc_rpc_next(r.server, &e) && strcmp(a->status, status) == 0 && strstr(a->message, text);
        ok(good, what);
        rig_end(&r);
}

static void test_refusals(void) {
        static char big[8192];
        char room[64];
        struct pc_rpc_limits small = {100, 4096, 4096, 1000, 10}, none = {1 << 20, 50, 4096, 1000, 10};
        refused("a message over the limit", small, "/s/M", (struct request){.bytes = "\0\0\0\1\1", .len = 5}, "", "",
                "8", "larger than max (257 vs. 100)");
        refused("the limit of all together", none, "/s/M", (struct request){.bytes = big, .len = 60}, "", "", "8",
                "under way");
        refused("a compressed message", LIMITS, "/s/M", (struct request){.bytes = "\1\0\0\0\0", .len = 5}, "", "", "12",
                "compressed");
        refused("two messages", LIMITS, "/s/M", (struct request){.bytes = "\0\0\0\0\0\0\0\0\0\0", .len = 10}, "", "",
                "13", "one message");
        refused("half a message", LIMITS, "/s/M", (struct request){.bytes = "\0\0\0\0\5ab", .len = 7}, "", "", "13",
                "before its message was complete");
        refused("no message", LIMITS, "/s/M", (struct request){.bytes = "", .len = 0}, "", "", "13", "complete");
        static struct rig r;
        struct pc_rpc_event e;
        rig_start(LIMITS, &r);
        struct request q = message(room, "x");
        int32_t id = ask(&r, "GET", &q, "", "");
        turn(&r);
        ok(strcmp(of(&r, id)->http, "405") == 0 && !pc_rpc_next(r.server, &e), "another method");
        q = message(room, "x");
        id = ask(&r, "/s/M", &q, "content-type", "text/html");
        turn(&r);
        ok(strcmp(of(&r, id)->http, "415") == 0 && !pc_rpc_next(r.server, &e), "another content type");
        memset(big, 'x', 5000);
        big[5000] = '\0';
        q = message(room, "x");
        id = ask(&r, "/s/M", &q, "x-long", big);
        turn(&r);
        ok(of(&r, id)->closed && of(&r, id)->reset != 0 && !pc_rpc_next(r.server, &e), "headers over the limit");
        q = message(room, "x");
        id = ask(&r, "/s/M", &q, "", "");
        turn(&r);
        ok(pc_rpc_next(r.server, &e) && e.stream == id, "and the connection goes on");
        rig_end(&r);
}

static void test_stream(void) {
        static struct rig r;
        static char piece[30000];
        struct pc_rpc_event e;
        struct pc_err err;
        char room[64];
        size_t waiting = 0;
        rig_start(LIMITS, &r);
        struct request q = message(room, "x");
        int32_t id = ask(&r, "/s/Watch", &q, "", "");
        turn(&r);
        bool good = pc_rpc_next(r.server, &e);
        for (int i = 0; i < 3; i++) {
                good = good && pc_rpc_send(r.server, id, "ab", 2, &waiting, &err) == 0;
                turn(&r);
                good = good && of(&r, id)->len == (size_t) (i + 1) * 7 && !of(&r, id)->closed;
        }
        ok(good && pc_rpc_waiting(r.server, id) == 0, "messages as they come");
        nghttp2_session_set_local_window_size(r.client, 0, id, 100); /* a client that takes little */
        for (int i = 0; i < 10; i++)
                good = good && pc_rpc_send(r.server, id, piece, sizeof piece, &waiting, &err) == 0;
        ok(good && waiting == 10 * (sizeof piece + 5), "what waits is told");
        good = pc_rpc_finish(r.server, id, 0, NULL, &err) == 0;
        turn(&r);
        ok(good && answered(of(&r, id), "0"), "all of it arrives before the status");
        q = message(room, "x");
        id = ask(&r, "/s/Watch", &q, "", "");
        turn(&r);
        good = pc_rpc_next(r.server, &e) && pc_rpc_send(r.server, id, "ab", 2, &waiting, &err) == 0;
        turn(&r);
        good = good && pc_rpc_finish(r.server, id, 14, "gone", &err) == 0;
        turn(&r);
        ok(good && answered(of(&r, id), "14") && strcmp(of(&r, id)->message, "gone") == 0, "a status after messages");
        rig_end(&r);
}

static void test_unread(void) {
        static struct rig r;
        static char piece[30000];
        struct pc_rpc_limits few = {100, 1000, 4096, 40000, 10};
        struct pc_rpc_event e;
        struct pc_err err;
        char room[64];
        size_t waiting = 0;
        rig_start(few, &r);
        struct request q = message(room, "x");
        int32_t first = ask(&r, "/s/A", &q, "", "");
        struct request p = q;
        p.at = 0;
        int32_t second = ask(&r, "/s/B", &p, "", "");
        turn(&r);
        bool good = pc_rpc_next(r.server, &e) && pc_rpc_next(r.server, &e);
        good = good && pc_rpc_send(r.server, first, piece, sizeof piece, &waiting, &err) == 0;
        ok(good && pc_rpc_send(r.server, second, piece, sizeof piece, &waiting, &err) == -ENOBUFS &&
               err.code == ENOBUFS,
           "answers that nobody reads do not pile up");
        ok(pc_rpc_send(r.server, second, piece, 5000, &waiting, &err) == 0, "what still fits does");
        turn(&r);
        good = pc_rpc_send(r.server, second, piece, sizeof piece, &waiting, &err) == 0;
        turn(&r);
        ok(good && of(&r, second)->len == 5005 + sizeof piece + 5, "when they were read there is room again");
        good =
            pc_rpc_finish(r.server, first, 0, NULL, &err) == 0 && pc_rpc_finish(r.server, second, 0, NULL, &err) == 0;
        turn(&r);
        ok(good && answered(of(&r, first), "0") && answered(of(&r, second), "0"), "and all of it arrived");
        rig_end(&r);
}

static void test_cancel(void) {
        static struct rig r;
        struct pc_rpc_event e;
        struct pc_err err;
        char room[64];
        rig_start(LIMITS, &r);
        struct request q = message(room, "x");
        int32_t id = ask(&r, "/s/M", &q, "", "");
        turn(&r);
        bool good = pc_rpc_next(r.server, &e);
        nghttp2_submit_rst_stream(r.client, 0, id, NGHTTP2_CANCEL);
        turn(&r);
        ok(good && pc_rpc_next(r.server, &e) && e.kind == PC_RPC_CANCEL && e.stream == id &&
               !pc_rpc_next(r.server, &e) && pc_rpc_running(r.server) == 0,
           "a caller that leaves is told once");
        q = message(room, "x");
        id = ask(&r, "/s/M", &q, "", "");
        turn(&r);
        nghttp2_submit_rst_stream(r.client, 0, id, NGHTTP2_CANCEL);
        turn(&r);
        ok(!pc_rpc_next(r.server, &e), "one that leaves before its call was taken not at all");
        int32_t ids[3];
        struct request qs[3];
        for (int i = 0; i < 3; i++) {
                qs[i] = message(room, "x");
                ids[i] = ask(&r, "/s/M", &qs[i], "", "");
        }
        turn(&r);
        good = pc_rpc_next(r.server, &e) && pc_rpc_next(r.server, &e); /* two of three taken */
        good = good && pc_rpc_finish(r.server, ids[0], 0, NULL, &err) == 0;
        pc_closep(&r.fd);
        ok(good && (pc_rpc_pump(r.server) & PC_RPC_OVER), "a connection that ends is over");
        good = pc_rpc_next(r.server, &e) && e.kind == PC_RPC_CANCEL && e.stream == ids[1] && !pc_rpc_next(r.server, &e);
        size_t waiting = 1;
        ok(good && pc_rpc_send(r.server, ids[1], "x", 1, &waiting, &err) == 0 && waiting == 0 &&
               pc_rpc_flush(r.server) == PC_RPC_OVER,
           "its running call is cancelled");
        rig_end(&r);
}

static void test_goaway(void) {
        static struct rig r;
        struct pc_rpc_event e;
        struct pc_err err;
        char room[64];
        size_t waiting;
        rig_start(LIMITS, &r);
        struct request q = message(room, "x"), late = q;
        int32_t id = ask(&r, "/s/M", &q, "", "");
        turn(&r);
        bool good = pc_rpc_next(r.server, &e);
        pc_rpc_goaway(r.server);
        int after = ask(&r, "/s/M", &late, "", "");
        turn(&r);
        ok(good && r.goaway && after > 0 && !pc_rpc_next(r.server, &e), "after a goodbye no call begins");
        good =
            pc_rpc_send(r.server, id, "y", 1, &waiting, &err) == 0 && pc_rpc_finish(r.server, id, 0, NULL, &err) == 0;
        int flags = turn(&r);
        ok(good && answered(of(&r, id), "0") && (flags & PC_RPC_OVER), "the last call ends, then the connection");
        rig_end(&r);
}

static void test_limits_of_calls(void) {
        static struct rig r;
        struct pc_rpc_event e;
        char room[64];
        struct pc_rpc_limits two = {100, 1000, 4096, 1000, 2};
        rig_start(two, &r);
        turn(&r);
        struct request qs[3];
        for (int i = 0; i < 3; i++) {
                qs[i] = message(room, "x");
                ask(&r, "/s/M", &qs[i], "", "");
        }
        turn(&r);
        int n = 0;
        while (pc_rpc_next(r.server, &e))
                n++;
        ok(n == 2, "calls beyond the limit wait at the client");
        rig_end(&r);
}

static void test_bytes(void) {
        struct pc_err err;
        struct pc_rpc *c = NULL;
        struct pc_rpc_event e;
        struct pc_rpc_limits bad = {1, 1, 1, 1, 0};
        int fds[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
                abort();
        ok(pc_rpc_new(fds[1], "", 0, &bad, &c, &err) == -EINVAL && fcntl(fds[1], F_GETFD) >= 0,
           "limits that allow nothing");
        ok(pc_rpc_new(fds[1], "GET / ", 6, &LIMITS, &c, &err) == -EPROTO && !c && fcntl(fds[1], F_GETFD) >= 0,
           "a false preface: the descriptor stays the caller's");
        ok(pc_rpc_new(fds[1], "PRI * HTT", 9, &LIMITS, &c, &err) == 0, "half a preface");
        bool good = send(fds[0], "P/2.0\r\n\r\nSM\r\n\r\n", 15, 0) == 15 && pc_rpc_pump(c) == 0;
        ok(good, "and the rest");
        good = send(fds[0], "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 12, 0) == 12;
        ok(good && (pc_rpc_pump(c) & PC_RPC_OVER) && !pc_rpc_next(c, &e), "garbage ends the connection");
        c = pc_rpc_free(c);
        ok(pc_rpc_free(NULL) == NULL, "free of nothing");
        close(fds[0]);
}

static void test_full_socket(void) {
        static struct rig r;
        static char piece[1 << 20];
        struct pc_rpc_event e;
        struct pc_err err;
        char room[64];
        size_t waiting;
        rig_start(LIMITS, &r);
        nghttp2_session_set_local_window_size(r.client, 0, 0, 1 << 30);
        nghttp2_settings_entry window = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1 << 30};
        nghttp2_submit_settings(r.client, 0, &window, 1);
        struct request q = message(room, "x");
        int32_t id = ask(&r, "/s/M", &q, "", "");
        turn(&r);
        bool good = pc_rpc_next(r.server, &e) && pc_rpc_send(r.server, id, piece, sizeof piece, &waiting, &err) == 0 &&
                    pc_rpc_finish(r.server, id, 0, NULL, &err) == 0;
        ok(good && pc_rpc_flush(r.server) == PC_RPC_WANTS_WRITE, "a full socket wants to be written later");
        turn(&r);
        ok(answered(of(&r, id), "0"), "and gets everything");
        rig_end(&r);
}

int main(void) {
        test_pure();
        test_unary();
        test_refusals();
        test_stream();
        test_unread();
        test_cancel();
        test_goaway();
        test_limits_of_calls();
        test_bytes();
        test_full_socket();
        return done_testing();
}
