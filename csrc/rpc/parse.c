/* The pure parts: time-outs and texts as gRPC's headers carry them. */
#include "rpc/rpc.h"

int64_t pc_rpc_timeout(const char *value, size_t n) {
        static const struct {
                char unit;
                int64_t ns;
        } units[] = {{'n', 1},
                     {'u', 1000},
                     {'m', 1000000},
                     {'S', 1000000000},
                     {'M', INT64_C(60) * 1000000000},
                     {'H', INT64_C(3600) * 1000000000}};
        if (n < 2 || n > 9) /* "at most 8 digits" and the unit */
                return -1;
        int64_t count = 0;
        for (size_t i = 0; i < n - 1; i++) {
                if (value[i] < '0' || value[i] > '9')
                        return -1;
                count = count * 10 + (value[i] - '0');
        }
        for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
                if (units[i].unit == value[n - 1])
                        return count > INT64_MAX / units[i].ns ? INT64_MAX : count * units[i].ns;
        return -1;
}

size_t pc_rpc_encode(const char *text, size_t n, char *out) {
        static const char hex[] = "0123456789ABCDEF";
        size_t made = 0;
        for (size_t i = 0; i < n; i++) {
                unsigned char b = (unsigned char) text[i];
                if (b >= 0x20 && b <= 0x7E && b != '%') {
                        out[made++] = (char) b;
                } else {
                        out[made++] = '%';
                        out[made++] = hex[b >> 4];
                        out[made++] = hex[b & 15];
                }
        }
        return made;
}
