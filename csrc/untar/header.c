#include "untar/header.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>

static int bad(struct pc_err *reterr, const char *what) {
        return pc_fail(reterr, EBADMSG, what, NULL);
}

static bool parse_base256(const uint8_t *f, size_t n, int64_t *ret) {
        uint8_t inv = f[0] & 0x40 ? 0xff : 0;
        uint64_t x = 0;
        for (size_t i = 0; i < n; i++) {
                uint8_t c = f[i] ^ inv;
                if (i == 0)
                        c &= 0x7f;
                if (x >> 56)
                        return false;
                x = x << 8 | c;
        }
        if (x >> 63)
                return false;
        *ret = inv ? ~(int64_t) x : (int64_t) x;
        return true;
}

bool pc_tar_number(const uint8_t *f, size_t n, int64_t *ret) {
        if (n > 0 && f[0] & 0x80)
                return parse_base256(f, n, ret);
        /* Writers pad with spaces or NULs on either side; text after an inner NUL is ignored. */
        while (n > 0 && (*f == ' ' || *f == 0)) {
                f++;
                n--;
        }
        while (n > 0 && (f[n - 1] == ' ' || f[n - 1] == 0))
                n--;
        int64_t x = 0;
        for (size_t i = 0; i < n && f[i]; i++) {
                if (f[i] < '0' || f[i] > '7' || x >> 60)
                        return false;
                x = x << 3 | (f[i] - '0');
        }
        *ret = x;
        return true;
}

static void text(char *to, const uint8_t *f, size_t n) {
        size_t len = strnlen((const char *) f, n);
        memcpy(to, f, len);
        to[len] = 0;
}

static bool sum_ok(const uint8_t *b) {
        int64_t want;
        unsigned plain = 0;
        int with_sign = 0;
        if (b[148] & 0x80 || !pc_tar_number(b + 148, 8, &want))
                return false;
        for (int i = 0; i < PC_TAR_BLOCK; i++)
                plain += b[i];
        for (int i = 148; i < 156; i++) /* the field itself counts as spaces */
                plain += (unsigned) ' ' - b[i];
        if (want == plain)
                return true;
        for (int i = 0; i < PC_TAR_BLOCK; i++) /* what old Sun tar wrote */
                with_sign += i >= 148 && i < 156 ? ' ' : (int8_t) b[i];
        return want == with_sign;
}

static bool is_zero(const uint8_t *b) {
        for (int i = 0; i < PC_TAR_BLOCK; i += 8) {
                uint64_t w;
                memcpy(&w, b + i, 8);
                if (w)
                        return false;
        }
        return true;
}

static bool ascii(const uint8_t *f, size_t n) {
        for (size_t i = 0; i < n && f[i]; i++)
                if (f[i] >= 0x80)
                        return false;
        return true;
}

bool pc_tar_header_only(char type) {
        return type >= '1' && type <= '6';
}

static bool number(const uint8_t *b, size_t at, size_t n, int64_t *ret) {
        return pc_tar_number(b + at, n, ret);
}

int pc_tar_header_parse(const uint8_t b[PC_TAR_BLOCK], struct pc_tar_header *ret, struct pc_err *reterr) {
        if (is_zero(b))
                return 1;
        if (!sum_ok(b))
                return bad(reterr, "tar header checksum");
        struct pc_tar_header h = {.type = (char) b[156]};
        char base[101], prefix[156] = "";
        int64_t mtime, atime = 0, ignored;
        text(base, b, 100);
        text(h.link, b + 157, 100);
        bool ok = number(b, 100, 8, &h.mode) && number(b, 108, 8, &h.uid) && number(b, 116, 8, &h.gid) &&
                  number(b, 124, 12, &h.size) && number(b, 136, 12, &mtime);
        bool posix = memcmp(b + 257, "ustar", 6) == 0;
        h.gnu = memcmp(b + 257, "ustar  ", 8) == 0;
        if (posix || h.gnu)
                ok = ok && number(b, 329, 8, &h.devmajor) && number(b, 337, 8, &h.devminor);
        if (posix && memcmp(b + 508, "tar", 4) == 0) { /* star's variant: shorter prefix, then times */
                text(prefix, b + 345, 131);
                ok = ok && number(b, 476, 12, &atime) && number(b, 488, 12, &ignored);
                h.has_atime = ok && b[476];
        } else if (posix) {
                text(prefix, b + 345, 155);
        } else if (h.gnu) {
                bool times = (!b[345] || number(b, 345, 12, &atime)) && (!b[357] || number(b, 357, 12, &ignored));
                h.has_atime = times && b[345];
                if (!times && ascii(b + 345, 155)) /* old Go writers put a prefix where GNU has times */
                        text(prefix, b + 345, 155);
        }
        if (!ok || h.size < 0)
                return bad(reterr, "tar header number");
        h.mtime.tv_sec = mtime;
        h.atime.tv_sec = atime;
        char *to = h.name;
        if (prefix[0])
                to = stpcpy(stpcpy(to, prefix), "/");
        strcpy(to, base);
        *ret = h;
        return 0;
}
