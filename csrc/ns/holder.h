/* The child that makes namespaces; private to the unit. It shares the memory and the descriptors of the caller, whose
 * thread sleeps until it has ended (or, for a keeper, exec'ed): nothing is copied, however large the process, and what
 * it reports needs no pipe. */
#pragma once
#include "ns/ns.h"

#define PC_NS_STACK (16 * 1024)
#define PC_NS_BARE __attribute__((no_sanitize("address", "undefined"), noinline))

struct pc_ns_setting { /* one prepared sysctl */
        char path[256];
        const char *value;
        size_t len;
        bool later; /* refused to us as we are: once more as root of the user namespace */
};

struct pc_ns_holder {
        int userns;    /* joined first, -1 for none */
        int unshare;   /* CLONE_NEW* of what is then made; PID by the keeper's clone */
        int join_net;  /* descriptor of a network namespace to join instead, -1 for none */
        int socket[3]; /* domain, type, protocol of a socket to make; domain 0: none */
        const char *hostname;
        size_t hostname_len;
        struct pc_ns_setting *settings;
        size_t n_settings;
        bool loopback_up;
        const char *const *keeper;
        int keeper_fd; /* the program */
        char *keeper_stack;

        /* Reported. Descriptors belong to the caller from the moment they are stored. */
        int fds[PC_NS_KINDS];
        int socket_fd;
        int keeper_pidfd;
        pid_t keeper_pid;
        int code;
        const char *step;
        const char *path;
};

extern const char *const pc_ns_names[PC_NS_KINDS]; /* as below /proc/<pid>/ns */
extern const int pc_ns_flags[PC_NS_KINDS];

/* Run the holder to its end; 0 or -errno with *reterr from its report. */
int pc_ns_hold(struct pc_ns_holder *h, struct pc_err *reterr);
int pc_ns_holder_main(void *holder);
int pc_ns_pin_fd(int ns, const char *path, struct pc_err *reterr);
