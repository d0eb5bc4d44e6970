// SRC: csrc/untar/*.c
// LIBS: -lisal -lzstd -lcrypto -lbz2 -llzma
/* The pure parsers of the untar unit on any bytes. The first byte chooses; what is accepted must keep its promises. */
#include "untar/header.h"
#include "untar/names.h"
#include "untar/splitline.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good) {
        if (!good)
                abort();
}

/* The checksum would keep the fuzzer out of everything behind it. */
static void sum(uint8_t *b) {
        unsigned s = 0;
        memset(b + 148, ' ', 8);
        for (int i = 0; i < PC_TAR_BLOCK; i++)
                s += b[i];
        (void) snprintf((char *) b + 148, 8, "%06o", s);
}

static void header(uint8_t *p, size_t n, struct pc_err *err) {
        uint8_t block[PC_TAR_BLOCK] = {0};
        struct pc_tar_header h;
        struct pc_regions r = {.max = 64};
        bool more = false;
        memcpy(block, p, n < sizeof block ? n : sizeof block);
        sum(block);
        if (pc_tar_header_parse(block, &h, err) == 0)
                check(h.size >= 0 && strlen(h.name) <= 256 && strlen(h.link) <= 100);
        (void) pc_regions_old(&r, block, true, &more, err);
        (void) pc_regions_old(&r, block, false, &more, err);
        check(r.n <= 64);
        if (pc_regions_check(&r, 1 << 30, 4096, err) == 0)
                for (size_t i = 0; i < r.n; i++)
                        check(r.v[i].offset >= 0 && r.v[i].offset + r.v[i].length <= 1 << 30);
        free(r.v);
}

static void records(char *p, size_t n, struct pc_err *err) {
        struct pc_pax pax;
        struct pc_regions r = {.max = 64};
        if (pc_pax_parse(p, n, 64, &pax, err) < 0)
                return;
        for (size_t i = 0; i < pax.n_xattrs; i++) {
                const struct pc_xattr *x = &pax.xattrs[i];
                check(strlen(x->name) > 0 && x->value.p >= p && x->value.p + x->value.n <= p + n);
        }
        check(!(pax.have & PC_PAX_MTIME) || (pax.mtime.tv_nsec >= 0 && pax.mtime.tv_nsec < 1000000000));
        check(!(pax.have & PC_PAX_PATH) || *pax.path);
        check(!(pax.have & pax.blank));
        (void) pc_pax_sparse(&pax, &r, err);
        free(r.v);
        pc_pax_done(&pax);
}

static void map(const uint8_t *p, size_t n, struct pc_err *err) {
        struct pc_map10 m = {.count = -1, .pending = -1};
        struct pc_regions r = {.max = 64};
        for (int more = 1; more == 1 && n > 0;) {
                uint8_t block[PC_TAR_BLOCK] = {0};
                size_t some = n < sizeof block ? n : sizeof block;
                memcpy(block, p, some);
                more = pc_map10_feed(&m, &r, block, err);
                check(more != 0 || (int64_t) r.n == m.count);
                p += some;
                n -= some;
        }
        free(r.v);
}

static void name(const char *p, struct pc_err *err) {
        char out[PC_PATH_ROOM], again[PC_PATH_ROOM];
        for (int clamp = 0; clamp < 2; clamp++) {
                int n = pc_name_clean(p, clamp, 4095, 2048, out, err);
                if (n < 0)
                        continue;
                check((size_t) n == strlen(out) && out[0] != '/' && (n == 0 || out[n - 1] != '/'));
                char all[PC_PATH_ROOM + 2];
                (void) snprintf(all, sizeof all, "/%s/", out);
                check(n == 0 || (!strstr(all, "//") && !strstr(all, "/./") && !strstr(all, "/../")));
                check(pc_name_clean(out, false, 4095, 2048, again, err) == n && strcmp(out, again) == 0);
                const char *base, *hidden = NULL;
                check(pc_name_split(out, &base) <= (size_t) n);
                if (pc_name_mark(out, &hidden) == PC_MARK_WHITEOUT)
                        check(hidden && *hidden && !strchr(hidden, '/') && strcmp(hidden, "..") != 0);
        }
        (void) pc_utf8_valid(p, strlen(p));
}

static void line(char *p, size_t n, struct pc_err *err) {
        struct pc_split_line l;
        if (pc_split_line_parse(p, n, &l, err) == 0) {
                check(l.type == 1 || l.type == 2);
                check(l.size >= 0);
                check(!*l.name || (l.name >= p && l.name + strlen(l.name) <= p + n));
                check(!l.payload || ((char *) l.payload >= p && (char *) l.payload + l.n_payload <= p + n));
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        struct pc_err err;
        if (size < 1)
                return 0;
        size_t n = size - 1;
        char *copy = malloc(n + 1); /* exact, so that the sanitizer sees a byte too many */
        if (!copy)
                return 0;
        memcpy(copy, data + 1, n);
        copy[n] = 0;
        switch (data[0] % 5) {
        case 0:
                header((uint8_t *) copy, n, &err);
                break;
        case 1: {
                char *exact = malloc(n ? n : 1); /* records need no terminator */
                memcpy(exact, copy, n);
                records(exact, n, &err);
                free(exact);
                break;
        }
        case 2:
                map((uint8_t *) copy, n, &err);
                break;
        case 3:
                name(copy, &err);
                break;
        default:
                line(copy, n, &err);
        }
        free(copy);
        return 0;
}
