#include "untar/header.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>

int pc_regions_add(struct pc_regions *r, int64_t offset, int64_t length, struct pc_err *reterr) {
        if (r->n >= r->max)
                return pc_fail(reterr, E2BIG, "sparse map", NULL);
        if (r->n == r->room) {
                size_t room = r->room ? r->room * 2 : 32;
                struct pc_region *v = reallocarray(r->v, room, sizeof *v);
                if (!v)
                        return pc_fail(reterr, ENOMEM, "sparse map", NULL);
                r->v = v;
                r->room = room;
        }
        r->v[r->n++] = (struct pc_region){offset, length};
        return 0;
}

int pc_regions_check(const struct pc_regions *r, int64_t size, int64_t stored, struct pc_err *reterr) {
        int64_t end = 0, sum = 0;
        bool ok = size >= 0;
        for (size_t i = 0; ok && i < r->n; i++) {
                const struct pc_region *g = &r->v[i];
                ok = g->offset >= end && g->length >= 0 && g->length <= size && g->offset <= size - g->length;
                if (ok) {
                        end = g->offset + g->length;
                        sum += g->length; /* regions are disjoint and below size */
                }
        }
        if (!ok || sum != stored)
                return pc_fail(reterr, EBADMSG, "sparse map", NULL);
        return 0;
}

int pc_regions_old(struct pc_regions *r, const uint8_t block[PC_TAR_BLOCK], bool first, bool *ret_more,
                   struct pc_err *reterr) {
        const uint8_t *p = first ? block + 386 : block;
        int n = first ? 4 : 21;
        for (int i = 0; i < n && p[i * 24]; i++) {
                int64_t offset, length;
                if (!pc_tar_number(p + i * 24, 12, &offset) || !pc_tar_number(p + i * 24 + 12, 12, &length))
                        return pc_fail(reterr, EBADMSG, "sparse map number", NULL);
                int err = pc_regions_add(r, offset, length, reterr);
                if (err < 0)
                        return err;
        }
        *ret_more = p[n * 24] != 0;
        return 0;
}

int pc_map10_feed(struct pc_map10 *m, struct pc_regions *r, const uint8_t block[PC_TAR_BLOCK], struct pc_err *reterr) {
        for (int i = 0; i < PC_TAR_BLOCK; i++) {
                if (block[i] != '\n') {
                        if (block[i] < '0' || block[i] > '9' || m->n_token >= 19)
                                return pc_fail(reterr, EBADMSG, "sparse map number", NULL);
                        m->token[m->n_token++] = (char) block[i];
                        continue;
                }
                if (m->n_token == 0)
                        return pc_fail(reterr, EBADMSG, "sparse map number", NULL);
                m->token[m->n_token] = 0;
                m->n_token = 0;
                errno = 0;
                int64_t value = strtoll(m->token, NULL, 10);
                if (errno)
                        return pc_fail(reterr, EBADMSG, "sparse map number", NULL);
                if (m->count < 0) {
                        if ((uint64_t) value > r->max)
                                return pc_fail(reterr, E2BIG, "sparse map", NULL);
                        m->count = value;
                } else if (m->pending < 0) {
                        m->pending = value;
                } else {
                        int err = pc_regions_add(r, m->pending, value, reterr);
                        if (err < 0)
                                return err;
                        m->pending = -1;
                }
                if ((uint64_t) m->count == r->n)
                        return 0; /* the rest of the block is padding */
        }
        return 1;
}

static int map_text(const char *s, struct pc_regions *r, struct pc_err *reterr) {
        while (*s) {
                int64_t v[2];
                for (int i = 0; i < 2; i++) {
                        char *end;
                        errno = 0;
                        v[i] = strtoll(s, &end, 10);
                        bool digit = *s >= '0' && *s <= '9';
                        if (errno || !digit || (i == 0 ? *end != ',' : *end != ',' && *end != 0))
                                return pc_fail(reterr, EBADMSG, "sparse map number", NULL);
                        s = *end ? end + 1 : end;
                        if (i == 1 && *end == ',' && !*s) /* a comma with nothing behind it */
                                return pc_fail(reterr, EBADMSG, "sparse map number", NULL);
                }
                int err = pc_regions_add(r, v[0], v[1], reterr);
                if (err < 0)
                        return err;
        }
        return 0;
}

int pc_pax_sparse(const struct pc_pax *pax, struct pc_regions *ret, struct pc_err *reterr) {
        char major = pax->sparse_major[0], minor = pax->sparse_minor[0];
        if (major == '1' && minor == '0')
                return 2;
        if (!(major == '0' && (minor == '0' || minor == '1'))) {
                if (major || minor)
                        return 0; /* of a version that nobody defined: an ordinary file */
                if (!(pax->have & (PC_PAX_SP_MAP | PC_PAX_SP_PAIRS)))
                        return 0;
        }
        int r = 0;
        if (pax->have & PC_PAX_SP_PAIRS)
                for (size_t i = 0; i < pax->pairs.n && r == 0; i++)
                        r = pc_regions_add(ret, pax->pairs.v[i].offset, pax->pairs.v[i].length, reterr);
        else if (pax->have & PC_PAX_SP_MAP)
                r = map_text(pax->sparse_map, ret, reterr);
        if (r < 0)
                return r;
        if (!(pax->have & PC_PAX_SP_BLOCKS) || pax->sparse_blocks < 0 || (uint64_t) pax->sparse_blocks != ret->n ||
            pax->pair_offset >= 0)
                return pc_fail(reterr, EBADMSG, "sparse map", NULL);
        return 1;
}
