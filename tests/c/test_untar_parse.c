// SRC: csrc/untar/*.c
// LIBS: -lisal -lzstd -lcrypto -lbz2 -llzma
/* The pure parts of the untar unit: header blocks, pax records, sparse maps, names, tar-split lines. */
#include "tap.h"
#include "untar/header.h"
#include "untar/idset.h"
#include "untar/names.h"
#include "untar/splitline.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void sum(uint8_t *b) {
        unsigned s = 0;
        memset(b + 148, ' ', 8);
        for (int i = 0; i < PC_TAR_BLOCK; i++)
                s += b[i];
        (void) snprintf((char *) b + 148, 8, "%06o", s);
}

static void block(uint8_t *b, const char *name, const char *magic) {
        memset(b, 0, PC_TAR_BLOCK);
        strncpy((char *) b, name, 100);
        memcpy(b + 100, "0000644\0000000001\0000000002\00000000000012\00000000000007", 47);
        b[156] = '0';
        memcpy(b + 257, magic, 8);
        sum(b);
}

static void numbers(void) {
        static const struct {
                const char *field;
                size_t n;
                bool good;
                int64_t value;
        } rows[] = {
            {"0000644", 8, true, 0644},
            {"  644 ", 7, true, 0644},
            {"\0\0\0 12 \0", 8, true, 012},
            {"\0\0\0\0\0\0\0\0", 8, true, 0},
            {"12\0 99", 6, true, 012},
            {"77777777777 ", 12, true, 077777777777},
            {"8", 1, false, 0},
            {"-1", 2, false, 0},
            {"1 2", 3, false, 0},
            {"777777777777777777777777", 24, false, 0},
            {"\x80\0\0\0\0\0\0\1", 8, true, 1},
            {"\x80\0\0\0\xff\0\0\0\0\0\0\0", 12, false, 0}, /* beyond 63 bits */
            {"\xff\xff\xff\xff\xff\xff\xff\xff", 8, true, -1},
            {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff", 12, true, -257},
            {"\x80\1\0\0\0\0\0\0\0\0\0\0", 12, false, 0},
            {"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 12, false, 0},
        };
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
                int64_t v = 42;
                uint8_t *exact = malloc(rows[i].n);
                memcpy(exact, rows[i].field, rows[i].n);
                bool good = pc_tar_number(exact, rows[i].n, &v);
                free(exact);
                okf(good == rows[i].good && (!good || v == rows[i].value), "number row %zu", i);
        }
}

static void headers(void) {
        uint8_t b[PC_TAR_BLOCK];
        struct pc_tar_header h;
        struct pc_err err;
        block(b, "name", "ustar\00000");
        okf(pc_tar_header_parse(b, &h, &err) == 0 && strcmp(h.name, "name") == 0 && h.mode == 0644 && h.uid == 1 &&
                h.gid == 2 && h.size == 10 && h.mtime.tv_sec == 7 && h.type == '0' && !h.gnu,
            "a ustar header");
        memset(b, 'n', 100);
        memset(b + 345, 'p', 155);
        sum(b);
        okf(pc_tar_header_parse(b, &h, &err) == 0 && strlen(h.name) == 256 && h.name[155] == '/', "the longest prefix");
        block(b, "name", "ustar  ");
        okf(pc_tar_header_parse(b, &h, &err) == 0 && h.gnu && !h.has_atime, "a GNU header");
        memcpy(b + 345, "00000000005", 11);
        sum(b);
        okf(pc_tar_header_parse(b, &h, &err) == 0 && h.has_atime && h.atime.tv_sec == 5, "GNU access time");
        memcpy(b + 345, "some/prefix", 11);
        sum(b);
        okf(pc_tar_header_parse(b, &h, &err) == 0 && !h.has_atime && strcmp(h.name, "some/prefix/name") == 0,
            "a prefix where GNU has times");
        block(b, "name", "\0\0\0\0\0\0\0\0");
        memcpy(b + 345, "prefix", 6);
        sum(b);
        okf(pc_tar_header_parse(b, &h, &err) == 0 && strcmp(h.name, "name") == 0, "no prefix before ustar");
        b[0] ^= 1;
        okf(pc_tar_header_parse(b, &h, &err) == -EBADMSG && err.code == EBADMSG, "a wrong checksum");
        memset(b, 0, sizeof b);
        okf(pc_tar_header_parse(b, &h, &err) == 1, "zeros");
        block(b, "name", "ustar\00000");
        b[0] = 0xe9;
        int s = 0;
        memset(b + 148, ' ', 8);
        for (int i = 0; i < PC_TAR_BLOCK; i++)
                s += (int8_t) b[i];
        (void) snprintf((char *) b + 148, 8, "%06o", (unsigned) s);
        okf(pc_tar_header_parse(b, &h, &err) == 0, "a checksum of signed bytes");
}

static int parse(const char *text, size_t n, struct pc_pax *p, char **ret, struct pc_err *err) {
        *ret = malloc(n ? n : 1);
        memcpy(*ret, text, n);
        return pc_pax_parse(*ret, n, 100, p, err);
}

static void pax(void) {
        struct pc_pax p = {0};
        struct pc_err err;
        char *buf;
        static const char good[] = "12 path=abc\n11 uid=123\n20 mtime=-1.5000000\n29 SCHILY.xattr.user.a=\0b\nc\n\n";
        int r = parse(good, sizeof good - 1, &p, &buf, &err);
        okf(r == 0 && p.have == (PC_PAX_PATH | PC_PAX_UID | PC_PAX_MTIME) && strcmp(p.path, "abc") == 0 &&
                p.uid == 123 && p.mtime.tv_sec == -2 && p.mtime.tv_nsec == 500000000,
            "records of all kinds");
        okf(r == 0 && p.n_xattrs == 1 && strcmp(p.xattrs[0].name, "user.a") == 0 && p.xattrs[0].value.n == 5,
            "a value with any bytes");
        pc_pax_done(&p);
        free(buf);
        static const char blank[] = "11 uid=123\n7 uid=\n";
        r = parse(blank, sizeof blank - 1, &p, &buf, &err);
        okf(r == 0 && !(p.have & PC_PAX_UID) && p.blank & PC_PAX_UID,
            "the last value of a key counts, also an empty one");
        pc_pax_done(&p);
        free(buf);
        static const char *const bad[] = {
            "x",
            "12",
            "12 ",
            "12 path=ab\n",
            "13 path=abc\n",
            "12 path=abcd",
            "9 pathabc\n",
            "8 =abcd\n",
            "0 path=abc\n",
            "-1 path=a\n",
            "11 uid=12x\n",
            "7 uid=-\n",
            "99999999999999999999 a=b\n",
            "12 mtime=1,\n",
            "30 uid=99999999999999999999999\n",
            "26 GNU.sparse.numbytes=1\n",
            "4 a=\n",
        };
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
                r = parse(bad[i], strlen(bad[i]), &p, &buf, &err);
                okf(r == -EBADMSG, "malformed records, row %zu", i);
                free(buf);
        }
}

static void regions(void) {
        struct pc_err err;
        struct pc_regions r = {.max = 3};
        okf(pc_regions_check(&r, 0, 0, &err) == 0, "no regions");
        (void) pc_regions_add(&r, 0, 512, &err);
        (void) pc_regions_add(&r, 1024, 0, &err);
        (void) pc_regions_add(&r, 1024, 100, &err);
        okf(pc_regions_check(&r, 2000, 612, &err) == 0, "regions in order");
        okf(pc_regions_check(&r, 2000, 611, &err) < 0, "a sum that does not fit");
        okf(pc_regions_check(&r, 1100, 612, &err) < 0, "a region beyond the file");
        okf(pc_regions_add(&r, 5000, 1, &err) == -E2BIG, "more regions than allowed");
        r.v[1].offset = 100;
        okf(pc_regions_check(&r, 2000, 612, &err) < 0, "regions that overlap");
        r.v[1] = (struct pc_region){INT64_MAX, INT64_MAX};
        okf(pc_regions_check(&r, INT64_MAX, 612, &err) < 0, "a region that wraps");
        free(r.v);

        uint8_t b[PC_TAR_BLOCK] = "2\n0\n512\n10";
        struct pc_map10 m = {.count = -1, .pending = -1};
        struct pc_regions t = {.max = 10};
        memset(b + 10, '0', sizeof b - 10);
        okf(pc_map10_feed(&m, &t, b, &err) == -EBADMSG, "a number that never ends");
        free(t.v);
        t = (struct pc_regions){.max = 10};
        m = (struct pc_map10){.count = -1, .pending = -1};
        char text[2 * PC_TAR_BLOCK] = {0};
        size_t n = 0;
        n += (size_t) sprintf(text + n, "9\n");
        for (int i = 0; i < 9; i++)
                n += (size_t) sprintf(text + n, "%019d\n%019d\n", i * 1000, 7);
        n += (size_t) sprintf(text + n, "%s", "");
        okf(n < PC_TAR_BLOCK && pc_map10_feed(&m, &t, (uint8_t *) text, &err) == 0 && t.n == 9 && t.v[8].offset == 8000,
            "a map in one block");
        free(t.v);
        t = (struct pc_regions){.max = 1000};
        m = (struct pc_map10){.count = -1, .pending = -1};
        n = (size_t) sprintf(text, "20\n");
        for (int i = 0; i < 20; i++)
                n += (size_t) sprintf(text + n, "%017d\n%017d\n", i * 1000, 7);
        int first = pc_map10_feed(&m, &t, (uint8_t *) text, &err);
        int second = pc_map10_feed(&m, &t, (uint8_t *) text + PC_TAR_BLOCK, &err);
        okf(first == 1 && second == 0 && t.n == 20 && t.v[19].length == 7, "a map across blocks");
        free(t.v);
}

static void names(void) {
        static const struct {
                const char *in, *out;
                bool clamp;
                int r;
        } rows[] = {
            {"a", "a", false, 1},
            {"./a/", "a", false, 1},
            {"/a//b/.", "a/b", false, 3},
            {"a/../b", "b", false, 1},
            {"a/b/..", "a", false, 1},
            {"", "", false, 0},
            {".", "", false, 0},
            {"/", "", false, 0},
            {"/../a", "a", false, 1},
            {"..", NULL, false, -EPERM},
            {"a/../..", NULL, false, -EPERM},
            {"../a", "a", true, 1},
            {"a/../../b", "b", true, 1},
            {"..a", "..a", false, 3},
            {"a/..b/", "a/..b", false, 5},
        };
        char out[PC_PATH_ROOM];
        struct pc_err err;
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
                int r = pc_name_clean(rows[i].in, rows[i].clamp, 4095, 2048, out, &err);
                okf(r == rows[i].r && (r < 0 || strcmp(out, rows[i].out) == 0), "cleaning row %zu", i);
        }
        char big[6000];
        memset(big, 'a', sizeof big);
        big[256] = 0;
        okf(pc_name_clean(big, false, 4095, 2048, out, &err) == -ENAMETOOLONG, "a component of 256 bytes");
        big[255] = 0;
        okf(pc_name_clean(big, false, 4095, 2048, out, &err) == 255, "a component of 255 bytes");
        for (size_t i = 0; i < sizeof big - 1; i++)
                big[i] = i % 2 ? '/' : 'a';
        big[sizeof big - 1] = 0;
        okf(pc_name_clean(big, false, 99999, 9999, out, &err) == -ENAMETOOLONG, "a name beyond the buffer");
        big[4095] = 0;
        okf(pc_name_clean(big, false, 99999, 9999, out, &err) == 4095 - 0 - (big[4094] == '/'), "the longest name");
        okf(pc_name_clean("a/b/c", false, 4095, 2, out, &err) == -E2BIG, "too deep");
        okf(pc_name_clean("a/../b/../c/../d", false, 4095, 1, out, &err) == 1, "depth is that of the result");

        static const struct {
                const char *name;
                enum pc_mark mark;
                const char *hidden;
        } marks[] = {
            {"a", PC_MARK_NONE, NULL},
            {"", PC_MARK_NONE, NULL},
            {".wh.a", PC_MARK_WHITEOUT, "a"},
            {"d/.wh.a", PC_MARK_WHITEOUT, "a"},
            {"d/.wh...a", PC_MARK_WHITEOUT, "..a"},
            {"d/.wh..wh..opq", PC_MARK_OPAQUE, NULL},
            {".wh..wh..opq", PC_MARK_OPAQUE, NULL},
            {".wh..wh.plnk", PC_MARK_SKIP, NULL},
            {"d/.wh..wh.aufs", PC_MARK_SKIP, NULL},
            {".wh..wh.plnk/1/2", PC_MARK_SKIP, NULL},
            {"d/.wh..wh.plnk/.wh..wh..opq", PC_MARK_SKIP, NULL},
            {".wh.", PC_MARK_BAD, NULL},
            {"d/.wh..", PC_MARK_BAD, NULL},
            {"d/.wh...", PC_MARK_BAD, NULL},
            {".whx", PC_MARK_NONE, NULL},
            {".wh.d/f", PC_MARK_NONE, NULL},
        };
        for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
                const char *hidden = NULL;
                enum pc_mark m = pc_name_mark(marks[i].name, &hidden);
                bool same = marks[i].hidden ? hidden && strcmp(hidden, marks[i].hidden) == 0 : !hidden;
                okf(m == marks[i].mark && same, "mark of \"%s\"", marks[i].name);
        }
}

static void utf8(void) {
        static const struct {
                const char *s;
                bool valid;
        } rows[] = {{"plain", true},
                    {"\xc3\xa9", true},
                    {"\xe2\x82\xac", true},
                    {"\xf0\x9f\x98\x80", true},
                    {"\xf4\x8f\xbf\xbf", true},
                    {"\xc0\x80", false},
                    {"\xc1\xbf", false},
                    {"\xe0\x9f\xbf", false},
                    {"\xed\xa0\x80", false},
                    {"\xf0\x8f\xbf\xbf", false},
                    {"\xf4\x90\x80\x80", false},
                    {"\xf5\x80\x80\x80", false},
                    {"\x80", false},
                    {"\xc3", false},
                    {"\xe2\x82", false},
                    {"a\xff", false},
                    {"\xe2\x28\xa1", false}};
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
                size_t n = strlen(rows[i].s);
                char *exact = malloc(n);
                memcpy(exact, rows[i].s, n);
                okf(pc_utf8_valid(exact, n) == rows[i].valid, "UTF-8 row %zu", i);
                free(exact);
        }
}

static int line(const char *text, struct pc_split_line *l, char **ret) {
        struct pc_err err;
        *ret = strdup(text);
        return pc_split_line_parse(*ret, strlen(text), l, &err);
}

static void lines(void) {
        struct pc_split_line l;
        char *buf;
        int r =
            line("{\"type\":1,\"name\":\"a\\u003c\\u00e9\\ud83d\\ude00\\n\",\"size\":5,\"payload\":\"AAECAwQFBgc=\","
                 "\"position\":3}",
                 &l, &buf);
        okf(r == 0 && l.type == 1 && l.size == 5 && strcmp(l.name, "a<\xc3\xa9\xf0\x9f\x98\x80\n") == 0 &&
                l.n_payload == 8 && memcmp(l.payload, "\0\1\2\3\4\5\6\7", 8) == 0,
            "a file line");
        free(buf);
        r = line("{\"type\":1,\"name_raw\":\"/2E=\",\"payload\":null,\"position\":0}", &l, &buf);
        okf(r == 0 && strcmp(l.name, "\xff\x61") == 0 && l.size == 0, "a name in base64");
        free(buf);
        r = line(" { \"x\" : true , \"type\" : 2 , \"payload\" : \"\" } ", &l, &buf);
        okf(r == 0 && l.type == 2 && l.n_payload == 0, "spaces, unknown members, nothing in it");
        free(buf);
        static const char *const bad[] = {"",
                                          "{",
                                          "{}",
                                          "{\"type\":2",
                                          "{\"type\":2,}",
                                          "{\"type\":2,\"payload\":\"AAA\"}",
                                          "{\"type\":2,\"payload\":\"=AAA\"}",
                                          "{\"type\":2,\"payload\":\"AA==AAAA\"}",
                                          "{\"type\":2,\"payload\":\"AA\\u12\"}",
                                          "{\"type\":2,\"payload\":\"AAAA\\",
                                          "{\"type\":2,\"payload\":\"AAAA\"}}",
                                          "{\"type\":99999999999999999999}",
                                          "{\"type\":2,\"x\":{}}"};
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
                okf(line(bad[i], &l, &buf) == -EBADMSG, "damaged line %zu", i);
                free(buf);
        }
}

static void ids(void) {
        struct pc_idset *s = pc_idset_new();
        size_t n = 0;
        for (uint32_t i = 0; i < 5000; i++)
                if (pc_idset_add(s, i * 2654435761u % 1000) < 0)
                        abort();
        (void) pc_idset_add(s, UINT32_MAX);
        uint32_t *v = pc_idset_sorted(s, &n);
        bool sorted = n > 1 && v[n - 1] == UINT32_MAX;
        for (size_t i = 1; i < n; i++)
                sorted = sorted && v[i - 1] < v[i];
        okf(sorted, "a set of ids comes out sorted and without doubles");
        free(v);
        pc_idset_free(s);
        pc_idset_free(NULL);
}

int main(void) {
        numbers();
        headers();
        pax();
        regions();
        names();
        utf8();
        lines();
        ids();
        return done_testing();
}
