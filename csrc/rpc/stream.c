/* One call: its headers and message as they arrive, its answer as nghttp2 takes it. */
#include "rpc/stream.h"
#include <stdio.h>

enum { STATUS_EXHAUSTED = 8, STATUS_UNIMPLEMENTED = 12, STATUS_INTERNAL = 13 };
enum { STATUS_DIGITS = 12 }; /* any unsigned, and its zero */

#define NV(n, v, vl)                                                                                                   \
        (nghttp2_nv) {                                                                                                 \
                .name = (uint8_t *) (n), .value = (uint8_t *) (v), .namelen = sizeof(n) - 1, .valuelen = (vl),         \
                .flags = NGHTTP2_NV_FLAG_NONE                                                                          \
        }

int bytes_reserve(struct bytes *b, size_t n) {
        if (n <= b->cap - b->len)
                return 0;
        if (n > SIZE_MAX - b->len)
                return -ENOMEM;
        char *grown = realloc(b->data, b->len + n);
        if (!grown)
                return -ENOMEM;
        b->data = grown;
        b->cap = b->len + n;
        return 0;
}

int bytes_add(struct bytes *b, const void *data, size_t n) {
        if (n > b->cap - b->len) {
                size_t cap = b->cap < 256 ? 256 : b->cap;
                while (cap - b->len < n) {
                        if (cap > SIZE_MAX / 2)
                                return -ENOMEM;
                        cap *= 2;
                }
                char *grown = realloc(b->data, cap);
                if (!grown)
                        return -ENOMEM;
                b->data = grown;
                b->cap = cap;
        }
        if (n > 0)
                memcpy(b->data + b->len, data, n);
        b->len += n;
        return 0;
}

void bytes_free(struct bytes *b) {
        free(b->data);
        *b = (struct bytes){0};
}

void stream_push(struct stream **head, struct stream *s) {
        s->next = *head;
        s->link = head;
        if (s->next)
                s->next->link = &s->next;
        *head = s;
}

void stream_unlink(struct stream *s) {
        *s->link = s->next;
        if (s->next)
                s->next->link = s->link;
}

struct stream *stream_new(struct pc_rpc *c, int32_t id) {
        struct stream *s = calloc(1, sizeof *s);
        if (!s)
                return NULL;
        s->conn = c;
        s->id = id;
        s->timeout_ns = -1;
        s->http_status = 200;
        stream_push(&c->open, s);
        return s;
}

void stream_free(struct stream *s) {
        s->conn->held -= s->in.len;
        s->conn->unread -= s->out.len - s->out_at;
        bytes_free(&s->in);
        bytes_free(&s->metadata);
        bytes_free(&s->out);
        free(s->path);
        free(s->text);
        free(s);
}

/* --- request --------------------------------------------------------------------------------------------------- */

static bool is(const char *name, size_t n, const char *what) {
        return strlen(what) == n && memcmp(name, what, n) == 0;
}

static bool begins(const char *value, size_t n, const char *what) {
        return n >= strlen(what) && memcmp(value, what, strlen(what)) == 0;
}

bool stream_header(struct stream *s, const char *name, size_t n, const char *value, size_t v) {
        s->fields += n + v;
        if (s->fields > s->conn->limits.max_headers)
                return false;
        if (is(name, n, ":path")) {
                free(s->path);
                s->path = strndup(value, v);
                return s->path != NULL;
        }
        if (is(name, n, ":method")) {
                if (!is(value, v, "POST"))
                        s->http_status = 405;
        } else if (is(name, n, "content-type")) {
                if (!begins(value, v, "application/grpc"))
                        s->http_status = 415;
        } else if (is(name, n, "grpc-timeout")) {
                s->timeout_ns = pc_rpc_timeout(value, v);
        } else if (name[0] != ':' && !begins(name, n, "grpc-") && !is(name, n, "te") && !is(name, n, "user-agent")) {
                return bytes_add(&s->metadata, name, n) == 0 && bytes_add(&s->metadata, "", 1) == 0 &&
                       bytes_add(&s->metadata, value, v) == 0 && bytes_add(&s->metadata, "", 1) == 0;
        }
        return true;
}

static size_t announced(const struct stream *s) {
        const unsigned char *p = (const unsigned char *) s->in.data;
        return (size_t) p[1] << 24 | (size_t) p[2] << 16 | (size_t) p[3] << 8 | p[4];
}

/* Bytes of the one message. What is over a limit is answered at once and not kept. */
bool stream_data(struct stream *s, const void *data, size_t n) {
        struct pc_rpc *c = s->conn;
        char text[128];
        if (s->finished || s->http_status != 200)
                return true;
        if (c->held + n > c->limits.max_held)
                return stream_finish(s, STATUS_EXHAUSTED, "too many bytes of requests are under way") == 0;
        if (bytes_add(&s->in, data, n) < 0)
                return false;
        c->held += n;
        if (s->in.len < PREFIX)
                return true;
        if (s->in.data[0] != 0)
                return stream_finish(s, STATUS_UNIMPLEMENTED, "compressed messages are not supported") == 0;
        if (announced(s) > c->limits.max_message) {
                (void) snprintf(text, sizeof text, "received message larger than max (%zu vs. %zu)", announced(s),
                                c->limits.max_message);
                return stream_finish(s, STATUS_EXHAUSTED, text) == 0;
        }
        if (s->in.len > PREFIX + announced(s))
                return stream_finish(s, STATUS_INTERNAL, "the call takes one message") == 0;
        return true;
}

bool stream_complete(struct stream *s) {
        if (s->ready || s->finished)
                return true;
        if (s->http_status != 200 || !s->path)
                return stream_finish(s, STATUS_INTERNAL, "not a gRPC call") == 0;
        if (s->in.len < PREFIX || s->in.len < PREFIX + announced(s))
                return stream_finish(s, STATUS_INTERNAL, "the request ended before its message was complete") == 0;
        s->ready = true;
        *s->conn->ready_end = s;
        s->conn->ready_end = &s->ready_next;
        return true;
}

/* --- answer ---------------------------------------------------------------------------------------------------- */

/* How the call ended, as one or two fields; number is their memory. */
static size_t status_fields(const struct stream *s, char number[STATUS_DIGITS], nghttp2_nv ret[2]) {
        int n = snprintf(number, STATUS_DIGITS, "%u", s->status);
        ret[0] = NV("grpc-status", number, (size_t) n);
        if (!s->text)
                return 1;
        ret[1] = NV("grpc-message", s->text, strlen(s->text));
        return 2;
}

static int submit_trailers(struct stream *s) {
        char number[STATUS_DIGITS];
        nghttp2_nv nv[2];
        return nghttp2_submit_trailer(s->conn->session, s->id, nv, status_fields(s, number, nv));
}

static ssize_t read_answer(nghttp2_session *session, int32_t id, uint8_t *buf, size_t length, uint32_t *flags,
                           nghttp2_data_source *source, void *data) {
        struct stream *s = source->ptr;
        size_t n = s->out.len - s->out_at;
        (void) session;
        (void) id;
        (void) data;
        if (n > length)
                n = length;
        if (n > 0)
                memcpy(buf, s->out.data + s->out_at, n);
        s->out_at += n;
        s->conn->unread -= n;
        if (s->out_at < s->out.len)
                return (ssize_t) n;
        s->out.len = s->out_at = 0;
        if (s->finished) {
                *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
                if (submit_trailers(s) != 0)
                        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
        } else if (n == 0) {
                s->deferred = true;
                return NGHTTP2_ERR_DEFERRED;
        }
        return (ssize_t) n;
}

int stream_answer(struct stream *s) {
        nghttp2_nv nv[] = {NV(":status", "200", 3), NV("content-type", "application/grpc", 16)};
        nghttp2_data_provider provider = {.source.ptr = s, .read_callback = read_answer};
        s->begun = true;
        return nghttp2_submit_response(s->conn->session, s->id, nv, 2, &provider);
}

static int refuse_http(struct stream *s) {
        nghttp2_nv nv[] = {NV(":status", s->http_status == 405 ? "405" : "415", 3)};
        return nghttp2_submit_response(s->conn->session, s->id, nv, 1, NULL);
}

int stream_finish(struct stream *s, unsigned status, const char *text) {
        if (s->finished)
                return 0;
        s->finished = true;
        if (s->taken)
                s->conn->running--;
        s->status = status;
        if (text && text[0]) {
                size_t n = strlen(text);
                s->text = malloc(3 * n + 1);
                if (s->text) /* without memory the status alone has to do */
                        s->text[pc_rpc_encode(text, n, s->text)] = '\0';
        }
        if (s->http_status != 200)
                return refuse_http(s);
        if (s->begun) {
                if (!s->deferred)
                        return 0;
                s->deferred = false;
                return nghttp2_session_resume_data(s->conn->session, s->id);
        }
        char number[STATUS_DIGITS];
        nghttp2_nv nv[5] = {NV(":status", "200", 3), NV("content-type", "application/grpc", 16),
                            NV("grpc-accept-encoding", "identity", 8)};
        size_t n = 3 + status_fields(s, number, nv + 3);
        s->begun = true;
        return nghttp2_submit_response(s->conn->session, s->id, nv, n, NULL);
}
