/* rtnetlink dumps: links with their counters, addresses. */
#include "common/fd.h"
#include "common/sys.h"
#include "ns/net.h"
#include "ns/ns.h"
#include <arpa/inet.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <sys/time.h>

#define DUMP_BUFFER (64 * 1024) /* the kernel fills at most 32 KiB per message of a dump */
#define DUMP_ITEMS 65536        /* a pod has a handful; this bounds what a broken namespace can cost */

/* Attributes of a message body; NULL at the end, *bad set when they do not fit. */
static const struct rtattr *next_attr(const char **at, const char *end, bool *bad) {
        size_t left = (size_t) (end - *at);
        struct rtattr head;
        if (left < sizeof head)
                return NULL;
        memcpy(&head, *at, sizeof head);
        if (head.rta_len < sizeof head || head.rta_len > left) {
                *bad = true;
                return NULL;
        }
        const struct rtattr *found = (const struct rtattr *) (const void *) *at;
        size_t step = RTA_ALIGN(head.rta_len);
        *at += step > left ? left : step;
        return found;
}

/* Start of the attributes of a message of the given type; NULL when it is another, *bad when it is too short. */
static const char *body(const void *msg, size_t len, unsigned type, void *fixed, size_t n_fixed, const char **end,
                        bool *bad) {
        struct nlmsghdr head;
        *bad = len < sizeof head;
        if (*bad)
                return NULL;
        memcpy(&head, msg, sizeof head);
        *bad = head.nlmsg_len > len || head.nlmsg_len < NLMSG_HDRLEN;
        if (*bad || head.nlmsg_type != type)
                return NULL;
        *bad = head.nlmsg_len < NLMSG_SPACE(n_fixed);
        if (*bad)
                return NULL;
        memcpy(fixed, (const char *) msg + NLMSG_HDRLEN, n_fixed);
        *end = (const char *) msg + head.nlmsg_len;
        return (const char *) msg + NLMSG_SPACE(n_fixed);
}

static size_t payload(const struct rtattr *a) {
        return a->rta_len - RTA_LENGTH(0);
}

static void take_stats(const struct rtattr *a, struct pc_ns_link *link) {
        struct rtnl_link_stats64 s = {0}; /* older kernels fill less of it */
        memcpy(&s, RTA_DATA(a), payload(a) < sizeof s ? payload(a) : sizeof s);
        link->rx_bytes = s.rx_bytes;
        link->rx_packets = s.rx_packets;
        link->rx_errors = s.rx_errors;
        link->rx_dropped = s.rx_dropped;
        link->tx_bytes = s.tx_bytes;
        link->tx_packets = s.tx_packets;
        link->tx_errors = s.tx_errors;
        link->tx_dropped = s.tx_dropped;
}

int pc_ns_parse_link(const void *msg, size_t len, struct pc_ns_link *ret) {
        struct ifinfomsg info;
        const char *end = NULL;
        bool bad;
        const char *at = body(msg, len, RTM_NEWLINK, &info, sizeof info, &end, &bad);
        if (!at)
                return bad ? -EBADMSG : 0;
        struct pc_ns_link link = {.index = info.ifi_index, .flags = info.ifi_flags};
        for (const struct rtattr *a; (a = next_attr(&at, end, &bad));) {
                if (a->rta_type == IFLA_IFNAME) {
                        size_t n = strnlen(RTA_DATA(a), payload(a));
                        if (n >= sizeof link.name)
                                return -EBADMSG;
                        memcpy(link.name, RTA_DATA(a), n);
                } else if (a->rta_type == IFLA_MTU && payload(a) >= sizeof link.mtu) {
                        memcpy(&link.mtu, RTA_DATA(a), sizeof link.mtu);
                } else if (a->rta_type == IFLA_STATS64) {
                        take_stats(a, &link);
                }
        }
        if (bad || !link.name[0])
                return -EBADMSG;
        *ret = link;
        return 1;
}

int pc_ns_parse_addr(const void *msg, size_t len, struct pc_ns_addr *ret) {
        struct ifaddrmsg info;
        const char *end = NULL;
        bool bad;
        const char *at = body(msg, len, RTM_NEWADDR, &info, sizeof info, &end, &bad);
        if (!at)
                return bad ? -EBADMSG : 0;
        struct pc_ns_addr addr = {.index = (int) info.ifa_index,
                                  .family = info.ifa_family,
                                  .prefix = info.ifa_prefixlen,
                                  .scope = info.ifa_scope,
                                  .flags = info.ifa_flags};
        size_t want = info.ifa_family == AF_INET ? 4 : info.ifa_family == AF_INET6 ? 16 : 0;
        if (want == 0)
                return 0;
        bool local = false;
        for (const struct rtattr *a; (a = next_attr(&at, end, &bad));) {
                /* On a point-to-point link IFA_ADDRESS is the peer's; IFA_LOCAL, when there, is ours. */
                if ((a->rta_type != IFA_LOCAL && (a->rta_type != IFA_ADDRESS || local)) || payload(a) < want)
                        continue;
                local = a->rta_type == IFA_LOCAL;
                if (!inet_ntop(info.ifa_family, RTA_DATA(a), addr.text, sizeof addr.text))
                        return -EBADMSG;
        }
        if (bad || !addr.text[0])
                return -EBADMSG;
        *ret = addr;
        return 1;
}

/* One array of items of either kind, grown by doubling. */
struct list {
        char *items;
        size_t n, room, size;
        int (*parse)(const void *msg, size_t len, void *ret);
};

static int add(struct list *l, const void *msg, size_t len) {
        if (l->n == DUMP_ITEMS)
                return -E2BIG;
        if (l->n == l->room) {
                size_t room = l->room ? l->room * 2 : 8;
                char *grown = reallocarray(l->items, room, l->size);
                if (!grown)
                        return -ENOMEM;
                l->items = grown;
                l->room = room;
        }
        int r = l->parse(msg, len, l->items + l->n * l->size);
        if (r > 0)
                l->n++;
        return r;
}

/* All messages of one datagram; 1 at the end of the dump. */
static int take(struct list *l, const char *buf, size_t len) {
        while (len >= sizeof(struct nlmsghdr)) {
                struct nlmsghdr head;
                memcpy(&head, buf, sizeof head);
                if (head.nlmsg_len < sizeof head || head.nlmsg_len > len)
                        return -EBADMSG;
                if (head.nlmsg_type == NLMSG_DONE)
                        return 1;
                if (head.nlmsg_flags & NLM_F_DUMP_INTR)
                        return -EAGAIN;
                if (head.nlmsg_type == NLMSG_ERROR) {
                        struct nlmsgerr e;
                        if (head.nlmsg_len < NLMSG_LENGTH(sizeof e))
                                return -EBADMSG;
                        memcpy(&e, buf + NLMSG_HDRLEN, sizeof e);
                        return e.error < 0 ? e.error : -EBADMSG;
                }
                int r = add(l, buf, head.nlmsg_len);
                if (r < 0)
                        return r;
                size_t step = NLMSG_ALIGN(head.nlmsg_len);
                if (step >= len)
                        break;
                buf += step;
                len -= step;
        }
        return 0;
}

static int dump(int fd, int type, struct list *l) {
        struct {
                struct nlmsghdr head;
                struct ifinfomsg info; /* also long enough for an address request */
        } req = {.head = {.nlmsg_len = sizeof req,
                          .nlmsg_type = (uint16_t) type,
                          .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP,
                          .nlmsg_seq = 1}};
        _cleanup_free_ char *buf = malloc(DUMP_BUFFER);
        if (!buf)
                return -ENOMEM;
        ssize_t n = send(fd, &req, sizeof req, 0);
        if (n < 0)
                return -errno;
        l->n = 0;
        for (;;) {
                n = recv(fd, buf, DUMP_BUFFER, MSG_TRUNC);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (n > DUMP_BUFFER || n == 0)
                        return -EBADMSG;
                int r = take(l, buf, (size_t) n);
                if (r != 0)
                        return r < 0 ? r : 0;
        }
}

static int collect(const char *netns, int type, struct list *l, struct pc_err *reterr) {
        int r = -EAGAIN;
        for (int i = 0; r == -EAGAIN && i < 16; i++) { /* the table changed meanwhile: ask again, on a fresh socket */
                _cleanup_fd_ int fd = -1;
                r = pc_ns_socket(netns, AF_NETLINK, SOCK_RAW, NETLINK_ROUTE, &fd, reterr);
                if (r < 0) {
                        free(l->items);
                        return r;
                }
                r = dump(fd, type, l);
        }
        if (r < 0) {
                free(l->items);
                return pc_fail(reterr, r, "rtnetlink dump", netns);
        }
        return 0;
}

static int parse_link(const void *msg, size_t len, void *ret) {
        return pc_ns_parse_link(msg, len, ret);
}

static int parse_addr(const void *msg, size_t len, void *ret) {
        return pc_ns_parse_addr(msg, len, ret);
}

int pc_ns_links(const char *netns, struct pc_ns_link **ret, size_t *ret_n, struct pc_err *reterr) {
        struct list l = {.size = sizeof **ret, .parse = parse_link};
        int r = collect(netns, RTM_GETLINK, &l, reterr);
        if (r < 0)
                return r;
        *ret = (struct pc_ns_link *) (void *) l.items;
        *ret_n = l.n;
        return 0;
}

int pc_ns_addrs(const char *netns, struct pc_ns_addr **ret, size_t *ret_n, struct pc_err *reterr) {
        struct list l = {.size = sizeof **ret, .parse = parse_addr};
        int r = collect(netns, RTM_GETADDR, &l, reterr);
        if (r < 0)
                return r;
        *ret = (struct pc_ns_addr *) (void *) l.items;
        *ret_n = l.n;
        return 0;
}
