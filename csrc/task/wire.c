/* Protocol buffers as far as a shim's calls need them: varints and strings. */
#include "task/task.h"

#include <string.h>

enum { KIND_VARINT = 0, KIND_64 = 1, KIND_BYTES = 2, KIND_32 = 5 };
enum { TYPE_REQUEST = 1, TYPE_ANSWER = 2 };
enum { REQUEST_SERVICE = 1, REQUEST_METHOD = 2, REQUEST_PAYLOAD = 3 };
enum { ANSWER_STATUS = 1, ANSWER_PAYLOAD = 2, STATUS_CODE = 1, STATUS_MESSAGE = 2 };
enum { FIELD_ID = 1, RESIZE_WIDTH = 3, RESIZE_HEIGHT = 4, CLOSE_STDIN = 3 };

/* --- out ---------------------------------------------------------------------------------------------------------- */

struct sink {
        char *p;
        size_t n, cap;
        bool full;
};

static void put(struct sink *s, const void *bytes, size_t n) {
        if (s->full || n > s->cap - s->n) {
                s->full = true;
                return;
        }
        memcpy(s->p + s->n, bytes, n);
        s->n += n;
}

static void put_varint(struct sink *s, uint64_t v) {
        do {
                char byte = (char) ((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
                put(s, &byte, 1);
                v >>= 7;
        } while (v);
}

static void put_number(struct sink *s, unsigned field, uint64_t v) {
        put_varint(s, field << 3 | KIND_VARINT);
        put_varint(s, v);
}

static void put_bytes(struct sink *s, unsigned field, const void *bytes, size_t n) {
        put_varint(s, field << 3 | KIND_BYTES);
        put_varint(s, n);
        put(s, bytes, n);
}

static void big32(char out[4], uint32_t v) {
        for (int i = 0; i < 4; i++)
                out[i] = (char) (v >> (24 - 8 * i));
}

size_t pc_rpc_call(char *out, size_t cap, uint32_t stream, const char *const name[2], struct pc_bytes payload) {
        struct sink s = {out, PC_RPC_HEADER, cap, cap < PC_RPC_HEADER};
        put_bytes(&s, REQUEST_SERVICE, name[0], strlen(name[0]));
        put_bytes(&s, REQUEST_METHOD, name[1], strlen(name[1]));
        put_bytes(&s, REQUEST_PAYLOAD, payload.p, payload.n);
        if (s.full || s.n - PC_RPC_HEADER > PC_RPC_MAX)
                return 0;
        big32(out, (uint32_t) (s.n - PC_RPC_HEADER));
        big32(out + 4, stream);
        out[8] = TYPE_REQUEST;
        out[9] = 0;
        return s.n;
}

size_t pc_rpc_container(char *out, size_t cap, const char *id) {
        struct sink s = {out, 0, cap, false};
        put_bytes(&s, FIELD_ID, id, strlen(id));
        return s.full ? 0 : s.n;
}

size_t pc_rpc_resize(char *out, size_t cap, const char *id, unsigned width, unsigned height) {
        struct sink s = {out, 0, cap, false};
        put_bytes(&s, FIELD_ID, id, strlen(id));
        put_number(&s, RESIZE_WIDTH, width);
        put_number(&s, RESIZE_HEIGHT, height);
        return s.full ? 0 : s.n;
}

size_t pc_rpc_close_stdin(char *out, size_t cap, const char *id) {
        struct sink s = {out, 0, cap, false};
        put_bytes(&s, FIELD_ID, id, strlen(id));
        put_number(&s, CLOSE_STDIN, 1);
        return s.full ? 0 : s.n;
}

/* --- in ----------------------------------------------------------------------------------------------------------- */

static bool take_varint(struct pc_bytes *b, uint64_t *ret) {
        uint64_t v = 0;
        for (unsigned shift = 0; shift < 64 && b->n > 0; shift += 7) {
                unsigned char byte = (unsigned char) *b->p;
                b->p++;
                b->n--;
                v |= (uint64_t) (byte & 0x7f) << shift;
                if (!(byte & 0x80)) {
                        *ret = v;
                        return true;
                }
        }
        return false;
}

struct field {
        unsigned number;
        int kind;
        uint64_t v;           /* KIND_VARINT */
        struct pc_bytes text; /* KIND_BYTES */
};

/* 1: a field was taken; 0: the end; -EBADMSG. */
static int take_field(struct pc_bytes *b, struct field *ret) {
        uint64_t tag, n = 0;
        if (b->n == 0)
                return 0;
        if (!take_varint(b, &tag) || tag >> 3 == 0 || tag >> 3 > 0x1fffffff)
                return -EBADMSG;
        struct field f = {.number = (unsigned) (tag >> 3), .kind = (int) (tag & 7)};
        switch (f.kind) {
        case KIND_VARINT:
                if (!take_varint(b, &f.v))
                        return -EBADMSG;
                break;
        case KIND_BYTES:
                if (!take_varint(b, &n))
                        return -EBADMSG;
                break;
        case KIND_64:
                n = 8;
                break;
        case KIND_32:
                n = 4;
                break;
        default:
                return -EBADMSG;
        }
        if (n > b->n)
                return -EBADMSG;
        f.text = (struct pc_bytes){b->p, (size_t) n};
        b->p += n;
        b->n -= (size_t) n;
        *ret = f;
        return 1;
}

static int take_status(struct pc_bytes b, struct pc_answer *a) {
        struct field f;
        int r;
        while ((r = take_field(&b, &f)) > 0) {
                if (f.number == STATUS_CODE && f.kind == KIND_VARINT)
                        a->code = (int64_t) f.v;
                else if (f.number == STATUS_MESSAGE && f.kind == KIND_BYTES)
                        a->message = f.text;
        }
        return r;
}

static uint32_t from_big32(const char *p) {
        uint32_t v = 0;
        for (int i = 0; i < 4; i++)
                v = v << 8 | (unsigned char) p[i];
        return v;
}

int64_t pc_rpc_answer(const char *in, size_t n, struct pc_answer *ret) {
        if (n < PC_RPC_HEADER)
                return 0;
        uint32_t length = from_big32(in);
        if (length > PC_RPC_MAX)
                return -EMSGSIZE;
        if (n - PC_RPC_HEADER < length)
                return 0;
        struct pc_answer a = {.stream = from_big32(in + 4), .is_answer = in[8] == TYPE_ANSWER};
        struct pc_bytes b = {in + PC_RPC_HEADER, length};
        struct field f;
        int r = 0;
        while (a.is_answer && (r = take_field(&b, &f)) > 0) {
                if (f.kind != KIND_BYTES)
                        continue;
                if (f.number == ANSWER_STATUS && take_status(f.text, &a) < 0)
                        return -EBADMSG;
                if (f.number == ANSWER_PAYLOAD)
                        a.payload = f.text;
        }
        if (r < 0)
                return r;
        *ret = a;
        return (int64_t) PC_RPC_HEADER + length;
}

bool pc_rpc_number(struct pc_bytes message, unsigned field, uint64_t *ret) {
        struct field f;
        bool found = false;
        while (take_field(&message, &f) > 0)
                if (f.number == field && f.kind == KIND_VARINT) {
                        *ret = f.v;
                        found = true;
                }
        return found;
}
