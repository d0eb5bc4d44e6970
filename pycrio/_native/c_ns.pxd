# What csrc/ns/ns.h and csrc/ns/net.h say.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from posix.types cimport pid_t
from pycrio._native.c_common cimport pc_err

cdef extern from "ns/ns.h" nogil:
    cdef enum pc_ns_kind:
        PC_NS_USER
        PC_NS_NET
        PC_NS_UTS
        PC_NS_IPC
        PC_NS_MNT
        PC_NS_CGROUP
        PC_NS_PID
        PC_NS_KINDS
    cdef struct pc_ns_map:
        uint32_t container
        uint32_t host
        uint32_t size
    cdef struct pc_ns_spec:
        const char *pins[7]
        int userns
        const pc_ns_map *uids
        const pc_ns_map *gids
        size_t n_uids
        size_t n_gids
        const char *const *sysctls
        size_t n_sysctls
        const char *hostname
        bint loopback_up
        const char *const *keeper
    int pc_ns_create(const pc_ns_spec *spec, pid_t *ret_pid, int *ret_pidfd, pc_err *reterr)
    int pc_ns_hold_userns(const pc_ns_spec *maps, int *ret_fd, pc_err *reterr)
    int pc_ns_pin(const char *source, const char *path, pc_err *reterr)
    int pc_ns_unpin(const char *path, pc_err *reterr)
    int pc_ns_inode(const char *path, uint64_t *ret_inode, pc_err *reterr)
    int pc_ns_join_mount(const char *path, pc_err *reterr)
    int pc_ns_sysctl(const char *name, char *ret_path, size_t size, pc_ns_kind *ret_kind, pc_err *reterr)

cdef extern from "ns/net.h" nogil:
    cdef struct pc_ns_link:
        char name[16]
        int index
        uint32_t flags
        uint32_t mtu
        uint64_t rx_bytes
        uint64_t rx_packets
        uint64_t rx_errors
        uint64_t rx_dropped
        uint64_t tx_bytes
        uint64_t tx_packets
        uint64_t tx_errors
        uint64_t tx_dropped
    cdef struct pc_ns_addr:
        int index
        char text[46]
        uint8_t family
        uint8_t prefix
        uint8_t scope
        uint8_t flags
    int pc_ns_connect(const char *netns, const char *host, uint16_t port, int timeout_ms, int *ret_fd, pc_err *reterr)
    int pc_ns_links(const char *netns, pc_ns_link **ret, size_t *ret_n, pc_err *reterr)
    int pc_ns_addrs(const char *netns, pc_ns_addr **ret, size_t *ret_n, pc_err *reterr)
