/* TCP connections from inside a network namespace. Only the making of the socket needs the namespace. */
#include "common/fd.h"
#include "common/sys.h"
#include "ns/net.h"
#include "ns/ns.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <time.h>

static int64_t now_ms(void) {
        struct timespec t;
        (void) clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t) t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Until connected, failed or the deadline (< 0: none) has passed. */
static int finish(int fd, int64_t deadline) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        for (;;) {
                int64_t left = deadline < 0 ? -1 : deadline - now_ms();
                if (deadline >= 0 && left < 0)
                        left = 0;
                int n = poll(&p, 1, left > INT32_MAX ? INT32_MAX : (int) left);
                if (n < 0 && errno != EINTR)
                        return -errno;
                if (n == 0)
                        return -ETIMEDOUT;
                if (n > 0)
                        break;
        }
        int code = 0;
        socklen_t len = sizeof code;
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &len) < 0)
                return -errno;
        return -code;
}

static int attempt(const char *netns, const char *host, uint16_t port, int64_t deadline, int *ret_fd,
                   struct pc_err *reterr) {
        struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
        struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
        bool is4 = inet_pton(AF_INET, host, &v4.sin_addr) == 1;
        if (!is4 && inet_pton(AF_INET6, host, &v6.sin6_addr) != 1)
                return pc_fail(reterr, EINVAL, "address", host);
        _cleanup_fd_ int fd = -1;
        int r = pc_ns_socket(netns, is4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0, &fd, reterr);
        if (r < 0)
                return r;
        const struct sockaddr *to = is4 ? (const struct sockaddr *) &v4 : (const struct sockaddr *) &v6;
        r = connect(fd, to, is4 ? sizeof v4 : sizeof v6) < 0 ? -errno : 0;
        if (r == -EINPROGRESS || r == -EINTR)
                r = finish(fd, deadline);
        if (r < 0)
                return pc_fail(reterr, r, "connect", host);
        *ret_fd = steal_fd(&fd);
        return 0;
}

int pc_ns_connect(const char *netns, const char *host, uint16_t port, int timeout_ms, int *ret_fd,
                  struct pc_err *reterr) {
        int64_t deadline = timeout_ms < 0 ? -1 : now_ms() + timeout_ms;
        if (strcmp(host, "localhost") != 0)
                return attempt(netns, host, port, deadline, ret_fd, reterr);
        int r = attempt(netns, "127.0.0.1", port, deadline, ret_fd, reterr);
        if (r >= 0 || r == -ETIMEDOUT || r == -ENOENT)
                return r;
        struct pc_err second;
        int r6 = attempt(netns, "::1", port, deadline, ret_fd, &second);
        /* The first answer says more than "no IPv6 here". */
        if (r6 < 0 && reterr && r6 != -EAFNOSUPPORT && r6 != -EADDRNOTAVAIL && r6 != -ENETUNREACH)
                *reterr = second;
        return r6 >= 0 ? r6 : reterr ? -reterr->code : r;
}
