#include "untar/cursor.h"
#include <string.h>

ssize_t pc_cursor_span(struct pc_cursor *c, size_t max, const uint8_t **ret) {
        if (c->left == 0) {
                int e = c->border ? c->border(c->arg, c->at) : 0;
                if (e < 0)
                        return e;
                if (c->held)
                        pc_ring_release(c->ring, c->reader);
                c->held = false;
                int r = pc_ring_peek(c->ring, c->reader, &c->p, &c->left);
                if (r <= 0)
                        return r;
                c->held = true;
        }
        size_t n = c->left < max ? c->left : max;
        *ret = c->p;
        c->p += n;
        c->left -= n;
        c->at += n;
        return (ssize_t) n;
}

ssize_t pc_cursor_read(struct pc_cursor *c, void *to, size_t n) {
        size_t got = 0;
        while (got < n) {
                const uint8_t *p;
                ssize_t r = pc_cursor_span(c, n - got, &p);
                if (r < 0)
                        return r;
                if (r == 0)
                        break;
                memcpy((char *) to + got, p, (size_t) r);
                got += (size_t) r;
        }
        return (ssize_t) got;
}

int pc_cursor_stopped(ssize_t got, struct pc_err *reterr) {
        return pc_fail(reterr, got < 0 ? (int) -got : EBADMSG, got < 0 ? "read archive" : "archive is cut off", NULL);
}
