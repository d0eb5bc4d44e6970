// SRC: csrc/front/*.c
/* The front on real sockets: which target gets what, half-close, back-pressure, limits, deadlines, end. */
#include "common/fd.h"
#include "common/io.h"
#include "front/front.h"
#include "tap.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <sys/wait.h>

#define PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

static char dir[] = "/tmp/test_front.XXXXXX";

struct rig {
        int listen, handed[2], http;
        struct pc_front *front;
};

static socklen_t address(struct sockaddr_un *a, const char *name) {
        memset(a, 0, sizeof *a);
        a->sun_family = AF_UNIX;
        if (name[0] == '@') {
                memcpy(a->sun_path + 1, name + 1, strlen(name) - 1);
                return (socklen_t) (offsetof(struct sockaddr_un, sun_path) + strlen(name));
        }
        snprintf(a->sun_path, sizeof a->sun_path, "%s/%s", dir, name);
        return sizeof *a;
}

static int listen_at(const char *name, int backlog) {
        struct sockaddr_un a;
        socklen_t len = address(&a, name);
        if (name[0] != '@')
                (void) unlink(a.sun_path);
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || bind(fd, (struct sockaddr *) &a, len) < 0 || listen(fd, backlog) < 0)
                abort();
        return fd;
}

static int dial(void) {
        struct sockaddr_un a;
        socklen_t len = address(&a, "front");
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *) &a, len) < 0)
                abort();
        return fd;
}

static struct rig rig_start(unsigned timeout_ms, unsigned max) {
        struct rig r = {.listen = listen_at("front", 64), .http = listen_at("@pc-http", 64)};
        if (pipe2(r.handed, O_CLOEXEC) < 0 || fcntl(r.handed[1], F_SETFL, O_NONBLOCK) < 0)
                abort();
        struct pc_front_options o = {r.listen, r.handed[1], "@pc-http", timeout_ms, max};
        struct pc_err err;
        if (pc_front_new(&o, &r.front, &err) < 0 || pc_front_start(r.front, &err) < 0)
                abort();
        return r;
}

static void rig_end(struct rig *r) {
        r->front = pc_front_free(r->front);
        close(r->listen);
        pc_closep(&r->handed[0]);
        pc_closep(&r->handed[1]);
        pc_closep(&r->http);
}

static int taken(int listener) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
                abort();
        return fd;
}

/* The next connection that was handed over, its first bytes put before the others into text. */
static int handed(struct rig *r, char *text, size_t room) {
        struct pc_front_handed h;
        if (pc_read_all(r->handed[0], &h, sizeof h) != sizeof h || h.head_len >= room)
                abort();
        memset(text, 0, room);
        memcpy(text, h.head, h.head_len);
        return h.fd;
}

/* All bytes of a connection: those that came with it and those that follow. */
static bool hears_all(int fd, char *text, size_t room, const char *wanted) {
        size_t have = strlen(text), n = strlen(wanted);
        if (n >= room || have > n || pc_read_all(fd, text + have, n - have) != (ssize_t) (n - have))
                return false;
        return memcmp(text, wanted, n) == 0;
}

static bool says(int fd, const char *text) {
        return pc_write_all(fd, text, strlen(text)) == 0;
}

static bool hears(int fd, const char *text) {
        char got[256];
        size_t n = strlen(text);
        return pc_read_all(fd, got, n) == (ssize_t) n && memcmp(got, text, n) == 0;
}

static bool ends(int fd) {
        char c;
        ssize_t n = read(fd, &c, 1);
        return n == 0 || (n < 0 && errno == ECONNRESET);
}

static struct pc_front_stats stats(const struct rig *r) {
        struct pc_front_stats s;
        pc_front_stats(r->front, &s);
        return s;
}

static void until_active(const struct rig *r, uint64_t n) {
        while (stats(r).active != n)
                sched_yield();
}

static void test_detect(void) {
        bool good = true;
        for (size_t n = 0; n <= strlen(PREFACE); n++)
                good = good && pc_front_detect(PREFACE, n) == (n < 14 ? PC_FRONT_MORE : PC_FRONT_GRPC);
        ok(good, "every prefix of the preface");
        ok(pc_front_detect("GET / HTTP/1.1", 14) == PC_FRONT_HTTP && pc_front_detect("P", 1) == PC_FRONT_MORE &&
               pc_front_detect("PO", 2) == PC_FRONT_HTTP && pc_front_detect("PRI * HTTP/2.1", 14) == PC_FRONT_HTTP &&
               pc_front_detect("\0", 1) == PC_FRONT_HTTP && pc_front_detect(NULL, 0) == PC_FRONT_MORE,
           "what is not the preface");
}

static void test_routes(void) {
        struct rig r = rig_start(60000, 100);
        int c = dial();
        bool good = says(c, PREFACE "more");
        char text[256];
        int s = handed(&r, text, sizeof text);
        ok(good && hears_all(s, text, sizeof text, PREFACE "more") && says(s, "answer") && hears(c, "answer"),
           "a connection with the preface is handed over, whole");
        ok(says(c, "again") && hears(s, "again"), "and later bytes follow");
        close(c), ok(ends(s), "the client's end reaches the server"), close(s);
        c = dial();
        good = says(c, "GET /info HTTP/1.1\r\n\r\n");
        s = taken(r.http);
        ok(good && hears(s, "GET /info HTTP/1.1\r\n\r\n") && says(s, "200") && hears(c, "200"),
           "anything else to HTTP");
        close(s), ok(ends(c), "the server's end reaches the client"), close(c);
        c = dial();
        const char *preface = PREFACE;
        for (size_t i = 0; preface[i]; i++)
                good = good && pc_write_all(c, preface + i, 1) == 0;
        s = handed(&r, text, sizeof text);
        ok(good && hears_all(s, text, sizeof text, PREFACE), "a preface in single bytes");
        close(c), close(s);
        c = dial();
        good = says(c, "PRI * HTTP");
        good = good && says(c, "/1.1 hello");
        s = taken(r.http);
        ok(good && hears(s, "PRI * HTTP/1.1 hello"), "a false preface loses nothing");
        close(c), close(s);
        until_active(&r, 0);
        struct pc_front_stats st = stats(&r);
        ok(st.accepted == 4 && st.grpc == 2 && st.http == 2 && st.rejected == 0, "statistics");
        rig_end(&r);
}

static void test_half_close(void) {
        struct rig r = rig_start(60000, 100);
        int c = dial();
        bool good = says(c, "POST") && shutdown(c, SHUT_WR) == 0;
        int s = taken(r.http);
        good = good && hears(s, "POST") && ends(s);
        ok(good && says(s, "late answer") && hears(c, "late answer"), "the client is done, the server is not");
        close(s), ok(ends(c), "then the server is"), close(c);
        c = dial();
        good = says(c, "GET");
        s = taken(r.http);
        good = good && hears(s, "GET") && says(s, "bye") && shutdown(s, SHUT_WR) == 0 && hears(c, "bye") && ends(c);
        ok(good && says(c, "still here") && hears(s, "still here"), "the server is done, the client is not");
        close(c), ok(ends(s), "then the client is"), close(s);
        c = dial();
        good = says(c, "PR") && shutdown(c, SHUT_WR) == 0;
        s = taken(r.http);
        ok(good && hears(s, "PR") && ends(s) && says(s, "400") && hears(c, "400"),
           "an unfinished preface goes to HTTP");
        close(c), close(s);
        c = dial();
        good = says(c, "GET") && shutdown(c, SHUT_WR) == 0;
        s = taken(r.http);
        good = good && hears(s, "GET") && ends(s);
        close(c); /* for good now: the server would never learn it from half a close */
        until_active(&r, 0);
        ok(good && !says(s, "x"), "a client that is done and then gone");
        close(s);
        rig_end(&r);
}

static size_t fill(int fd) {
        static char junk[65536];
        size_t total = 0;
        for (;;) {
                for (size_t i = 0; i < sizeof junk; i++)
                        junk[i] = (char) ((total + i) * 7 >> 3);
                ssize_t n = send(fd, junk, sizeof junk, MSG_DONTWAIT | MSG_NOSIGNAL);
                if (n >= 0) {
                        total += (size_t) n;
                        continue;
                }
                /* Full; really full only if the front does not take any more. */
                struct pollfd p = {.fd = fd, .events = POLLOUT};
                if (poll(&p, 1, 300) == 0)
                        return total;
        }
}

static size_t drain_check(int fd, size_t from, size_t n) {
        static char got[65536];
        size_t at = from;
        while (at < from + n) {
                size_t want = from + n - at < sizeof got ? from + n - at : sizeof got;
                ssize_t r = read(fd, got, want);
                if (r <= 0)
                        break;
                for (ssize_t i = 0; i < r; i++)
                        if (got[i] != (char) ((at + (size_t) i) * 7 >> 3))
                                return 0;
                at += (size_t) r;
        }
        return at - from;
}

static void test_pressure(void) {
        struct rig r = rig_start(60000, 100);
        int c = dial();
        bool good = says(c, "GET");
        int s = taken(r.http);
        good = good && hears(s, "GET");
        size_t n = fill(c);
        ok(good && n > 100000 && n < 2000000, "what a side that is not read can send is bounded");
        ok(says(s, "other way") && hears(c, "other way"), "and holds up only its own direction");
        ok(drain_check(s, 0, n) == n, "all of it arrives, in order");
        ok(says(c, "go on") && hears(s, "go on"), "and the connection goes on");
        n = fill(s);
        close(s); /* with everything still on its way */
        ok(drain_check(c, 0, n) == n && ends(c), "nothing on its way is lost when the sender closes");
        close(c);
        c = dial();
        good = says(c, "GET");
        s = taken(r.http);
        good = good && hears(s, "GET");
        n = fill(c);
        size_t m = fill(s);
        ok(good && drain_check(c, 0, m) == m && drain_check(s, 0, n) == n, "both directions full at once");
        fill(c);
        fill(s);
        close(c);
        close(s);
        until_active(&r, 0);
        ok(true, "both closed while full");
        c = dial();
        good = says(c, "GET");
        s = taken(r.http);
        good = good && hears(s, "GET");
        fill(c);
        close(s); /* with our bytes unread */
        ok(good && ends(c), "a server that closes on unread bytes ends the client");
        close(c);
        until_active(&r, 0);
        rig_end(&r);
}

static void test_refusals(void) {
        struct rig r = rig_start(60000, 100);
        int c = dial();
        close(c);
        while (stats(&r).rejected < 1)
                sched_yield();
        until_active(&r, 0);
        ok(stats(&r).rejected == 1, "closed without a byte");
        pc_closep(&r.http);
        c = dial();
        ok(says(c, "GET") && ends(c) && stats(&r).rejected == 2, "a target that does not listen closes the client");
        close(c);
        fflush(stdout);
        int ready[2];
        if (pipe2(ready, O_CLOEXEC) < 0)
                abort();
        pid_t pid = fork();
        if (pid == 0) {
                if (setuid(65534) < 0)
                        _exit(1);
                (void) listen_at("@pc-http", 5);
                (void) !write(ready[1], "x", 1);
                pause();
                _exit(0);
        }
        char b;
        (void) pc_read_all(ready[0], &b, 1);
        c = dial();
        ok(says(c, "GET") && ends(c) && stats(&r).rejected == 3, "a target of another user gets nothing");
        close(c);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        close(ready[0]), close(ready[1]);
        rig_end(&r);

        r = rig_start(50, 100);
        c = dial();
        int d = dial();
        ok(says(d, "PRI") && ends(c) && ends(d) && stats(&r).rejected == 2, "silent and slow clients are closed");
        close(c), close(d);
        rig_end(&r);
}

static void test_limits(void) {
        struct rig r = rig_start(60000, 2);
        int c[3] = {dial(), dial(), dial()};
        bool good = says(c[0], "GET") && says(c[1], "GET") && says(c[2], "GET");
        int s0 = taken(r.http), s1 = taken(r.http);
        struct pollfd p = {.fd = r.http, .events = POLLIN};
        while (stats(&r).paused == 0)
                sched_yield();
        ok(good && stats(&r).active == 2 && poll(&p, 1, 50) == 0, "at the limit accepting pauses");
        close(c[0]);
        int s2 = taken(r.http);
        ok(hears(s2, "GET") && says(s2, "!") && hears(c[2], "!"), "and goes on when one ends");
        close(s0), close(s1), close(s2), close(c[1]), close(c[2]);
        until_active(&r, 0);
        rig_end(&r);

        r = rig_start(60000, 100);
        int first = dial(), spare = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        int lowest = dup(spare);
        close(lowest);
        struct rlimit old, low;
        getrlimit(RLIMIT_NOFILE, &old);
        until_active(&r, 1);
        low = (struct rlimit){.rlim_cur = (rlim_t) lowest + 1, .rlim_max = old.rlim_max};
        struct sockaddr_un a;
        socklen_t len = address(&a, "front");
        setrlimit(RLIMIT_NOFILE, &low); /* room for one at most: the second half of no connection */
        good = says(first, "GET") && connect(spare, (struct sockaddr *) &a, len) == 0 && says(spare, "GET");
        while (stats(&r).paused == 0)
                sched_yield();
        setrlimit(RLIMIT_NOFILE, &old);
        int x = taken(r.http), y = taken(r.http);
        ok(good && hears(x, "GET") && hears(y, "GET"), "without descriptors connections wait until there are some");
        close(first), close(spare), close(x), close(y);
        until_active(&r, 0);
        rig_end(&r);
}

static void test_full_backlog(void) {
        struct rig r = rig_start(60000, 100);
        close(r.http);
        r.http = listen_at("@pc-http", 1);
        int c[8], s[8];
        bool good = true;
        for (int i = 0; i < 8; i++) {
                c[i] = dial();
                good = good && says(c[i], "GET");
        }
        until_active(&r, 8);
        for (int i = 0; i < 8; i++) {
                s[i] = taken(r.http);
                good = good && hears(s[i], "GET");
        }
        ok(good && stats(&r).rejected == 0, "a target whose backlog is full is tried again");
        for (int i = 0; i < 8; i++)
                close(c[i]), close(s[i]);
        rig_end(&r);

        r = rig_start(100, 100);
        close(r.http);
        r.http = listen_at("@pc-http", 1);
        for (int i = 0; i < 8; i++) {
                c[i] = dial();
                good = good && says(c[i], "GET");
        }
        while (stats(&r).rejected < 6) /* two fit into that backlog */
                sched_yield();
        ok(good && stats(&r).http == 2, "but not for ever");
        for (int i = 0; i < 8; i++)
                close(c[i]);
        rig_end(&r);
}

static void test_handover(void) {
        struct rig r = rig_start(60000, 2);
        char text[256];
        int before = fcntl(r.handed[1], F_SETPIPE_SZ, 4096);
        bool good = before >= 4096;
        /* A full pipe: connections wait until there is room. */
        static char junk[1 << 16];
        ssize_t filled = write(r.handed[1], junk, (size_t) before - sizeof(struct pc_front_handed) + 1);
        int c = dial();
        good = good && filled > 0 && says(c, PREFACE);
        while (stats(&r).active != 1)
                sched_yield();
        ok(good && stats(&r).grpc == 0, "a full pipe keeps a connection waiting");
        good = pc_read_all(r.handed[0], junk, (size_t) filled) == filled;
        int s = handed(&r, text, sizeof text);
        ok(good && hears_all(s, text, sizeof text, PREFACE) && says(s, "x") && hears(c, "x"), "but does not lose it");
        close(s), ok(ends(c), "its end is its new owner's"), close(c);
        int many[8], theirs[8];
        for (int i = 0; i < 8; i++) {
                many[i] = dial();
                good = good && says(many[i], PREFACE);
                theirs[i] = handed(&r, text, sizeof text);
        }
        while (stats(&r).grpc != 9) /* counted after it was given */
                sched_yield();
        ok(good && stats(&r).paused == 0, "those handed over do not count for the limit");
        pc_front_stop(r.front);
        good = true;
        for (int i = 0; i < 8; i++) {
                good = good && says(theirs[i], "y") && hears(many[i], "y");
                close(many[i]), close(theirs[i]);
        }
        ok(good && stats(&r).active == 0, "and outlive the front");
        r.front = pc_front_free(r.front);
        r.front = NULL;
        rig_end(&r);

        r = rig_start(60000, 2);
        pc_closep(&r.handed[0]);
        c = dial();
        (void) says(c, PREFACE);
        ok(ends(c) && stats(&r).rejected == 1, "nobody to take it: rejected");
        close(c);
        rig_end(&r);
}

static void test_life(void) {
        struct rig r = rig_start(60000, 100);
        struct pc_err err;
        ok(pc_front_start(r.front, &err) == -EALREADY, "started once");
        int c = dial();
        bool good = says(c, "GET");
        int s = taken(r.http);
        good = good && hears(s, "GET") && says(c, "!") && hears(s, "!"); /* relayed: no longer accepting */
        pc_front_drain(r.front);
        pc_front_drain(r.front);
        int late = dial(); /* into the backlog of our own descriptor, where it stays */
        good = good && says(late, "GET") && says(c, "on") && hears(s, "on") && says(s, "and on") && hears(c, "and on");
        struct pollfd p = {.fd = r.http, .events = POLLIN};
        ok(good && poll(&p, 1, 50) == 0 && stats(&r).accepted == 1, "drained: open ones live on, no new ones");
        pc_front_stop(r.front);
        ok(ends(c) && ends(s) && stats(&r).active == 0, "stop ends both sides");
        pc_front_stop(r.front);
        close(c), close(s), close(late);
        rig_end(&r);

        struct pc_front *f = NULL;
        int l = listen_at("front", 5);
        struct pc_front_options o = {l, -1, "@b", 1000, 10};
        ok(pc_front_new(&o, &f, &err) == 0, "made");
        pc_front_stop(f);
        ok(pc_front_start(f, &err) == -EALREADY, "stopped before it was started");
        f = pc_front_free(f);
        ok(pc_front_free(NULL) == NULL, "free of nothing");
        char longname[200];
        memset(longname, 'x', sizeof longname);
        longname[199] = '\0';
        o.http_target = longname;
        ok(pc_front_new(&o, &f, &err) == -ENAMETOOLONG, "a socket path that is too long");
        o.http_target = "";
        ok(pc_front_new(&o, &f, &err) == -EINVAL, "an empty one");
        o.http_target = "@a", o.max_connections = 0;
        ok(pc_front_new(&o, &f, &err) == -EINVAL, "room for none");
        o.max_connections = 1, o.listen_fd = 0;
        ok(pc_front_new(&o, &f, &err) == -ENOTSOCK, "not a socket");
        o.listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ok(pc_front_new(&o, &f, &err) == -EINVAL && !f, "a socket that does not listen");
        close(o.listen_fd);
        close(l);
}

static void *echo(void *arg) {
        int listener = *(int *) arg;
        struct pollfd p[512] = {{.fd = listener, .events = POLLIN}};
        nfds_t n = 1;
        for (;;) {
                poll(p, n, -1);
                for (nfds_t i = 1; i < n; i++) {
                        char b[4096];
                        if (!p[i].revents)
                                continue;
                        ssize_t got = read(p[i].fd, b, sizeof b);
                        if (got > 0 && pc_write_all(p[i].fd, b, (size_t) got) == 0)
                                continue;
                        close(p[i].fd);
                        p[i--] = p[--n];
                }
                if (p[0].revents) {
                        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
                        if (fd < 0)
                                break;
                        p[n++] = (struct pollfd){.fd = fd, .events = POLLIN};
                }
        }
        while (n > 1)
                close(p[--n].fd);
        return NULL;
}

static void test_many(void) {
        struct rig r = rig_start(60000, 1000);
        pthread_t t;
        pthread_create(&t, NULL, echo, &r.http);
        int c[300];
        bool good = true;
        for (int round = 0; round < 3; round++) {
                for (int i = 0; i < 300; i++)
                        c[i] = dial();
                for (int i = 0; i < 300; i++)
                        good = good && says(c[i], "hello");
                for (int i = 299; i >= 0; i--)
                        good = good && hears(c[i], "hello");
                for (int i = 0; i < 300; i++)
                        close(c[i]);
                until_active(&r, 0);
        }
        ok(good && stats(&r).http == 900 && stats(&r).rejected == 0, "hundreds of connections, three times");
        shutdown(r.http, SHUT_RDWR);
        pthread_join(t, NULL);
        rig_end(&r);
}

static int open_fds(void) {
        int n = 0;
        for (int i = 0; i < 4096; i++)
                n += fcntl(i, F_GETFD) >= 0;
        return n;
}

int main(void) {
        if (!mkdtemp(dir))
                return 1;
        (void) signal(SIGPIPE, SIG_IGN); /* of our own writes; the front does not rely on it */
        int before = open_fds();
        test_detect();
        test_routes();
        test_half_close();
        test_pressure();
        test_refusals();
        test_limits();
        test_full_backlog();
        test_handover();
        test_life();
        test_many();
        ok(open_fds() == before, "no descriptor is left open");
        char command[100];
        snprintf(command, sizeof command, "rm -rf %s", dir);
        ok(system(command) == 0, "clean-up");
        return done_testing();
}
