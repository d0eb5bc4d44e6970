// SRC: csrc/ns/*.c
/* The parsers of rtnetlink messages on any bytes: stay inside them, and give terminated texts. */
#include "ns/net.h"
#include "ns/ns.h"
#include <arpa/inet.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        char *msg = malloc(size + !size); /* exact size, so that the sanitizer sees a byte too many */
        if (!msg)
                return 0;
        memcpy(msg, data, size);
        struct pc_ns_link link;
        struct pc_ns_addr addr;
        unsigned char binary[16];
        if (pc_ns_parse_link(msg, size, &link) == 1 &&
            (strnlen(link.name, sizeof link.name) == sizeof link.name || !link.name[0]))
                abort();
        if (pc_ns_parse_addr(msg, size, &addr) == 1 && inet_pton(addr.family, addr.text, binary) != 1)
                abort();
        free(msg);

        /* Names of sysctls share the target: what is accepted is below /proc/sys and has no dots as a component. */
        char name[256], path[300];
        enum pc_ns_kind kind;
        size_t n = size < sizeof name - 1 ? size : sizeof name - 1;
        memcpy(name, data, n);
        name[n] = '\0';
        if (pc_ns_sysctl(name, path, sizeof path, &kind, NULL) == 0 &&
            (strncmp(path, "/proc/sys/", 10) != 0 || strstr(path, "/../") || strstr(path, "//")))
                abort();
        return 0;
}
