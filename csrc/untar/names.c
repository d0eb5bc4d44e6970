#include "untar/names.h"
#include <string.h>

int pc_name_clean(const char *name, bool clamp, uint64_t max_path, uint64_t max_depth, char *to,
                  struct pc_err *reterr) {
        size_t n = 0, depth = 0;
        bool rooted = clamp || *name == '/';
        if (max_path > PC_PATH_ROOM - 1)
                max_path = PC_PATH_ROOM - 1;
        for (const char *p = name; *p;) {
                size_t len = strcspn(p, "/");
                if (len == 0 || (len == 1 && *p == '.')) {
                        ;
                } else if (len == 2 && p[0] == '.' && p[1] == '.') {
                        if (n == 0 && !rooted)
                                return pc_fail(reterr, EPERM, "name leads out of the layer", name);
                        while (n > 0 && to[--n] != '/')
                                ;
                        depth -= depth > 0;
                } else {
                        if (len > 255 || n + len + 1 > max_path)
                                return pc_fail(reterr, ENAMETOOLONG, "name limit", name);
                        if (++depth > max_depth)
                                return pc_fail(reterr, E2BIG, "depth limit", name);
                        if (n > 0)
                                to[n++] = '/';
                        memcpy(to + n, p, len);
                        n += len;
                }
                p += len + (p[len] == '/');
        }
        to[n] = 0;
        return (int) n;
}

size_t pc_name_split(const char *clean, const char **ret_base) {
        const char *slash = strrchr(clean, '/');
        *ret_base = slash ? slash + 1 : clean;
        return slash ? (size_t) (slash - clean) : 0;
}

enum pc_mark pc_name_mark(const char *clean, const char **ret_hidden) {
        const char *base;
        size_t dir = pc_name_split(clean, &base);
        const char *aufs = strncmp(clean, ".wh..wh.", 8) == 0 ? clean : strstr(clean, "/.wh..wh.");
        if (aufs && aufs < clean + dir)
                return PC_MARK_SKIP; /* inside a bookkeeping directory, whatever it is called itself */
        if (aufs)
                return strcmp(base, ".wh..wh..opq") == 0 ? PC_MARK_OPAQUE : PC_MARK_SKIP;
        if (strncmp(base, ".wh.", 4) != 0)
                return PC_MARK_NONE;
        const char *hidden = base + 4;
        if (!*hidden || strcmp(hidden, ".") == 0 || strcmp(hidden, "..") == 0)
                return PC_MARK_BAD;
        *ret_hidden = hidden;
        return PC_MARK_WHITEOUT;
}

bool pc_utf8_valid(const char *s, size_t n) {
        const unsigned char *p = (const unsigned char *) s;
        for (size_t i = 0; i < n;) {
                unsigned c = p[i], extra, low = 0x80, high = 0xbf;
                if (c < 0x80) {
                        i++;
                        continue;
                }
                if (c >= 0xc2 && c <= 0xdf)
                        extra = 1;
                else if (c >= 0xe0 && c <= 0xef)
                        extra = 2;
                else if (c >= 0xf0 && c <= 0xf4)
                        extra = 3;
                else
                        return false;
                if (c == 0xe0)
                        low = 0xa0; /* shorter form exists */
                else if (c == 0xed)
                        high = 0x9f; /* surrogates */
                else if (c == 0xf0)
                        low = 0x90;
                else if (c == 0xf4)
                        high = 0x8f; /* beyond U+10FFFF */
                if (extra >= n - i || p[i + 1] < low || p[i + 1] > high)
                        return false;
                for (unsigned k = 2; k <= extra; k++)
                        if (p[i + k] < 0x80 || p[i + k] > 0xbf)
                                return false;
                i += extra + 1;
        }
        return true;
}
