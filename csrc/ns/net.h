/* Looking into a network namespace from outside: connections, link counters, addresses. */
#pragma once
#include "common/err.h"
#include <net/if.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>

struct pc_ns_link {
        char name[IFNAMSIZ];
        int index;
        uint32_t flags, mtu; /* IFF_* */
        uint64_t rx_bytes, rx_packets, rx_errors, rx_dropped, tx_bytes, tx_packets, tx_errors, tx_dropped;
};
struct pc_ns_addr {
        int index;
        char text[INET6_ADDRSTRLEN]; /* without the prefix length */
        uint8_t family, prefix, scope, flags;
};

/* A connected, non-blocking TCP socket. host: an address, or "localhost" (127.0.0.1, then ::1). netns "": ours. */
int pc_ns_connect(const char *netns, const char *host, uint16_t port, int timeout_ms, int *ret_fd,
                  struct pc_err *reterr);

/* All links or addresses of a namespace, in the kernel's order; the caller frees the array. */
int pc_ns_links(const char *netns, struct pc_ns_link **ret, size_t *ret_n, struct pc_err *reterr);
int pc_ns_addrs(const char *netns, struct pc_ns_addr **ret, size_t *ret_n, struct pc_err *reterr);

/* One rtnetlink message each, pure: 1 filled, 0 of another type, -EBADMSG malformed. */
int pc_ns_parse_link(const void *msg, size_t len, struct pc_ns_link *ret);
int pc_ns_parse_addr(const void *msg, size_t len, struct pc_ns_addr *ret);
