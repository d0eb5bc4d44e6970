/* One connection: the socket, nghttp2's session, and the calls that come out of it. */
#include "rpc/stream.h"
#include <sys/socket.h>

#define READ_SIZE (32 * 1024)
#define READS 8 /* per pump: others want their turn */
#define WRITE_SIZE (64 * 1024)
#define FRAME_SIZE (16 * 1024 + 9)
#define STREAM_WINDOW (1 << 20)
#define CONNECTION_WINDOW (4 << 20)

/* --- callbacks of the session ----------------------------------------------------------------------------------- */

static int on_begin(nghttp2_session *session, const nghttp2_frame *frame, void *data) {
        struct pc_rpc *c = data;
        if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
                return 0;
        struct stream *s = stream_new(c, frame->hd.stream_id);
        if (!s)
                return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
        return nghttp2_session_set_stream_user_data(session, s->id, s);
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t n,
                     const uint8_t *value, size_t v, uint8_t flags, void *data) {
        struct stream *s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
        (void) flags;
        (void) data;
        if (!s || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
                return 0;
        return stream_header(s, (const char *) name, n, (const char *) value, v)
                   ? 0
                   : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

static int on_chunk(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *bytes, size_t n, void *data) {
        struct stream *s = nghttp2_session_get_stream_user_data(session, id);
        (void) flags;
        (void) data;
        if (s && !stream_data(s, bytes, n))
                (void) nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, id, NGHTTP2_INTERNAL_ERROR);
        return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *data) {
        (void) data;
        if ((frame->hd.type != NGHTTP2_DATA && frame->hd.type != NGHTTP2_HEADERS) ||
            !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
                return 0;
        struct stream *s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
        if (s && !stream_complete(s))
                (void) nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, s->id, NGHTTP2_INTERNAL_ERROR);
        return 0;
}

static void ready_remove(struct pc_rpc *c, struct stream *s) {
        for (struct stream **p = &c->ready; *p; p = &(*p)->ready_next)
                if (*p == s) {
                        *p = s->ready_next;
                        if (c->ready_end == &s->ready_next)
                                c->ready_end = p;
                        return;
                }
}

/* The stream is over for HTTP/2. A call that somebody works on is kept until its CANCEL event is taken. */
static void leave(struct stream *s) {
        struct pc_rpc *c = s->conn;
        stream_unlink(s);
        if (s->taken && !s->finished) {
                s->finished = true;
                c->running--;
                stream_push(&c->gone, s);
                return;
        }
        if (s->ready && !s->taken)
                ready_remove(c, s);
        if (c->given == s)
                c->given = NULL;
        stream_free(s);
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t code, void *data) {
        struct stream *s = nghttp2_session_get_stream_user_data(session, id);
        (void) code;
        (void) data;
        if (s) {
                (void) nghttp2_session_set_stream_user_data(session, id, NULL);
                leave(s);
        }
        return 0;
}

/* --- the socket ------------------------------------------------------------------------------------------------- */

/* Collect frames until there are WRITE_SIZE bytes or none are left. False: out of memory or a broken session. */
static bool collect(struct pc_rpc *c) {
        c->out.len = c->out_at = 0;
        if (bytes_reserve(&c->out, WRITE_SIZE + FRAME_SIZE) < 0) /* at once: growing copies, and maps fresh pages */
                return false;
        while (c->out.len < WRITE_SIZE) {
                const uint8_t *frame;
                ssize_t n = nghttp2_session_mem_send(c->session, &frame);
                if (n == 0)
                        break;
                if (n < 0 || bytes_add(&c->out, frame, (size_t) n) < 0)
                        return false;
        }
        return true;
}

static int end(struct pc_rpc *c) {
        c->over = true;
        while (c->open)
                leave(c->open);
        return PC_RPC_OVER;
}

int pc_rpc_flush(struct pc_rpc *c) {
        if (c->over)
                return PC_RPC_OVER;
        for (;;) {
                if (c->out_at == c->out.len) {
                        if (!collect(c))
                                return end(c);
                        if (c->out.len == 0)
                                break;
                }
                ssize_t n = send(c->fd, c->out.data + c->out_at, c->out.len - c->out_at, MSG_NOSIGNAL | MSG_DONTWAIT);
                if (n >= 0)
                        c->out_at += (size_t) n;
                else if (errno == EAGAIN)
                        return PC_RPC_WANTS_WRITE;
                else if (errno != EINTR)
                        return end(c);
        }
        bytes_free(&c->out); /* an idle connection holds nothing */
        c->out_at = 0;
        if (!nghttp2_session_want_read(c->session) && !nghttp2_session_want_write(c->session))
                return end(c);
        return 0;
}

int pc_rpc_pump(struct pc_rpc *c) {
        char buffer[READ_SIZE];
        for (int i = 0; i < READS && !c->over; i++) {
                ssize_t n = recv(c->fd, buffer, sizeof buffer, MSG_DONTWAIT);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN)
                        break;
                if (n <= 0)
                        return end(c);
                if (nghttp2_session_mem_recv(c->session, (uint8_t *) buffer, (size_t) n) < 0) {
                        (void) pc_rpc_flush(c); /* it may hold a GOAWAY that says why */
                        return end(c);
                }
                if (n < (ssize_t) sizeof buffer)
                        break;
        }
        return pc_rpc_flush(c);
}

/* --- calls ------------------------------------------------------------------------------------------------------ */

bool pc_rpc_next(struct pc_rpc *c, struct pc_rpc_event *ret_event) {
        struct stream *s = c->given;
        c->given = NULL;
        if (s && s->taken) { /* its request has been looked at */
                c->held -= s->in.len;
                bytes_free(&s->in);
                bytes_free(&s->metadata);
        }
        if ((s = c->gone)) {
                *ret_event = (struct pc_rpc_event){.kind = PC_RPC_CANCEL, .stream = s->id, .timeout_ns = -1};
                stream_unlink(s);
                stream_free(s);
                return true;
        }
        if (!(s = c->ready))
                return false;
        c->ready = s->ready_next;
        if (!c->ready)
                c->ready_end = &c->ready;
        s->taken = true;
        c->running++;
        c->given = s;
        *ret_event = (struct pc_rpc_event){
            .kind = PC_RPC_CALL,
            .stream = s->id,
            .path = s->path,
            .metadata = s->metadata.data,
            .metadata_len = s->metadata.len,
            .timeout_ns = s->timeout_ns,
            .message = s->in.data + PREFIX,
            .message_len = s->in.len - PREFIX,
        };
        return true;
}

static size_t min_size(size_t a, size_t b) {
        return a < b ? a : b;
}

static struct stream *find(struct pc_rpc *c, int32_t id) {
        struct stream *s = c->over ? NULL : nghttp2_session_get_stream_user_data(c->session, id);
        return s && s->taken && !s->finished ? s : NULL;
}

int pc_rpc_send(struct pc_rpc *c, int32_t id, const void *message, size_t n, size_t *ret_waiting,
                struct pc_err *reterr) {
        struct stream *s = find(c, id);
        *ret_waiting = 0;
        if (!s)
                return 0;
        if (n > UINT32_MAX)
                return pc_fail(reterr, EMSGSIZE, "answer", s->path);
        if (c->unread > 0 && n > c->limits.max_unread - min_size(c->unread, c->limits.max_unread))
                return pc_fail(reterr, ENOBUFS, "answer", s->path);
        char prefix[PREFIX] = {0, (char) (n >> 24), (char) (n >> 16), (char) (n >> 8), (char) n};
        size_t before = s->out.len;
        if ((before == 0 && bytes_reserve(&s->out, PREFIX + n) < 0) || bytes_add(&s->out, prefix, PREFIX) < 0 ||
            bytes_add(&s->out, message, n) < 0) {
                s->out.len = before;
                return pc_fail(reterr, ENOMEM, "answer", s->path);
        }
        c->unread += PREFIX + n;
        int r = 0;
        if (!s->begun)
                r = stream_answer(s);
        else if (s->deferred) {
                s->deferred = false;
                r = nghttp2_session_resume_data(c->session, id);
        }
        if (r != 0)
                return pc_fail(reterr, EPROTO, "answer", s->path);
        *ret_waiting = s->out.len - s->out_at;
        return 0;
}

size_t pc_rpc_waiting(struct pc_rpc *c, int32_t id) {
        struct stream *s = find(c, id);
        return s ? s->out.len - s->out_at : 0;
}

int pc_rpc_finish(struct pc_rpc *c, int32_t id, unsigned status, const char *text, struct pc_err *reterr) {
        struct stream *s = find(c, id);
        if (s && stream_finish(s, status, text) != 0)
                return pc_fail(reterr, EPROTO, "status", s->path);
        return 0;
}

void pc_rpc_goaway(struct pc_rpc *c) {
        if (!c->over)
                (void) nghttp2_submit_goaway(c->session, NGHTTP2_FLAG_NONE,
                                             nghttp2_session_get_last_proc_stream_id(c->session), NGHTTP2_NO_ERROR,
                                             NULL, 0);
}

unsigned pc_rpc_running(const struct pc_rpc *c) {
        return c->running;
}

/* --- life ------------------------------------------------------------------------------------------------------- */

static int make_session(struct pc_rpc *c) {
        nghttp2_session_callbacks *calls;
        int r = nghttp2_session_callbacks_new(&calls);
        if (r != 0)
                return r;
        nghttp2_session_callbacks_set_on_begin_headers_callback(calls, on_begin);
        nghttp2_session_callbacks_set_on_header_callback(calls, on_header);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(calls, on_chunk);
        nghttp2_session_callbacks_set_on_frame_recv_callback(calls, on_frame);
        nghttp2_session_callbacks_set_on_stream_close_callback(calls, on_close);
        /* Clients on unix sockets name the strangest authorities, paths among them: what matters is checked by us. */
        nghttp2_option *option = NULL;
        r = nghttp2_option_new(&option);
        if (r == 0) {
                nghttp2_option_set_no_http_messaging(option, 1);
                r = nghttp2_session_server_new2(&c->session, calls, c, option);
                nghttp2_option_del(option);
        }
        nghttp2_session_callbacks_del(calls);
        if (r != 0)
                return r;
        nghttp2_settings_entry settings[] = {
            {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, c->limits.max_streams},
            {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW},
            {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t) c->limits.max_headers},
        };
        r = nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, settings, 3);
        return r != 0 ? r : nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, 0, CONNECTION_WINDOW);
}

static void conn_freep(struct pc_rpc **c) {
        *c = pc_rpc_free(*c);
}

int pc_rpc_new(int fd, const char *head, size_t head_len, const struct pc_rpc_limits *limits, struct pc_rpc **ret_conn,
               struct pc_err *reterr) {
        _cleanup_(conn_freep) struct pc_rpc *c = calloc(1, sizeof *c);
        if (!c)
                return pc_fail(reterr, ENOMEM, "malloc", NULL);
        c->fd = -1; /* the caller's until all is well */
        c->limits = *limits;
        c->ready_end = &c->ready;
        if (limits->max_streams == 0 || limits->max_headers > UINT32_MAX || limits->max_message > UINT32_MAX)
                return pc_fail(reterr, EINVAL, "limits", NULL);
        int r = make_session(c);
        if (r != 0)
                return pc_fail(reterr, r == NGHTTP2_ERR_NOMEM ? ENOMEM : EINVAL, "HTTP/2 session", NULL);
        if (nghttp2_session_mem_recv(c->session, (const uint8_t *) head, head_len) < 0)
                return pc_fail(reterr, EPROTO, "HTTP/2 preface", NULL);
        c->fd = fd;
        *ret_conn = steal_ptr(c);
        return 0;
}

struct pc_rpc *pc_rpc_free(struct pc_rpc *c) {
        if (!c)
                return NULL;
        (void) end(c);
        while (c->gone) {
                struct stream *s = c->gone;
                stream_unlink(s);
                stream_free(s);
        }
        nghttp2_session_del(c->session);
        pc_closep(&c->fd);
        bytes_free(&c->out);
        free(c);
        return NULL;
}
