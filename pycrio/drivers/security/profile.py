"""Our default seccomp profile: what programs in containers need, and nothing by which they could leave them.

An allow-list. Everything else fails with EPERM; ``clone3`` fails with ENOSYS, since a filter cannot see its flags and C
libraries then fall back to ``clone``, whose flags are checked. Calls that need a capability anyway are allowed only to
containers that have it, so that a kernel bug in them is out of reach of the others (man 2 seccomp, capabilities(7)).
"""

from __future__ import annotations

from typing import Any

ENOSYS, EPERM = 38, 1
AF_VSOCK = 40
# CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET
NAMESPACE_FLAGS = 0x7E020000
# Values of personality() that change nothing that matters: Linux, 32 bit, their uname26 forms, and "just tell me".
PERSONALITIES = (0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)

ALWAYS: dict[str, str] = {
    "files": """
        access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
        fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64
        fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync
        ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr getxattrat lchown lchown32 lgetxattr link
        linkat listxattr listxattrat llistxattr lremovexattr lseek _llseek lsetxattr lstat lstat64 mkdir mkdirat
        newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink
        readlinkat readv removexattr removexattrat rename renameat renameat2 rmdir sendfile sendfile64 setxattr
        setxattrat splice stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range sync_file_range2
        syncfs tee truncate truncate64 ugetrlimit umask unlink unlinkat utime utimensat utimensat_time64 utimes
        vmsplice write writev mknod mknodat name_to_handle_at cachestat file_getattr file_setattr
    """,
    "waiting": """
        epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
        eventfd2 inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents
        io_pgetevents io_pgetevents_time64 io_setup io_submit pipe pipe2 poll ppoll ppoll_time64 pselect6
        pselect6_time64 select _newselect signalfd signalfd4
    """,
    "sockets": """
        accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg
        recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair
    """,
    "memory": """
        brk get_mempolicy madvise map_shadow_stack mbind membarrier memfd_create memfd_secret mincore mlock mlock2
        mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect
        process_madvise process_mrelease remap_file_pages set_mempolicy set_mempolicy_home_node migrate_pages
        move_pages
    """,
    "ipc": """
        ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64
        mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt
        shmget
    """,
    "processes": """
        arch_prctl capget capset execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait
        futex_waitv futex_wake get_robust_list get_thread_area getegid getegid32 geteuid geteuid32 getgid getgid32
        getgroups getgroups32 getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid
        getresuid32 getrlimit getrusage getsid gettid getuid getuid32 getcpu ioprio_get ioprio_set kill
        pidfd_getfd pidfd_open pidfd_send_signal prctl prlimit64 restart_syscall rseq rt_sigaction rt_sigpending
        rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
        rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
        sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity
        sched_setattr sched_setparam sched_setscheduler sched_yield seccomp set_robust_list set_thread_area
        set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setpgid
        setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit
        setsid setuid setuid32 sigaction sigaltstack signal sigpending sigprocmask sigreturn sigsuspend sysinfo
        tgkill time times tkill uname vfork wait4 waitid waitpid ptrace process_vm_readv process_vm_writev kcmp
        landlock_create_ruleset landlock_add_rule landlock_restrict_self lsm_get_self_attr lsm_list_modules
        lsm_set_self_attr nice uretprobe
    """,
    "time": """
        adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
        clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep pause setitimer timer_create
        timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create
        timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64
    """,
    "devices": "ioctl",
}
# Extra calls of one architecture.
ARCH: dict[str, str] = {
    "amd64": "modify_ldt",
    "386": "modify_ldt",
    "arm": "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
    "arm64": "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
    "ppc64le": "sync_file_range2 swapcontext",
    "riscv64": "riscv_flush_icache riscv_hwprobe",
    "s390x": "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr",
}
BY_CAPABILITY: dict[str, str] = {
    "CAP_SYS_ADMIN": """
        bpf clone clone3 fanotify_init fanotify_mark fsconfig fsmount fsopen fspick lookup_dcookie mount
        mount_setattr move_mount open_tree open_tree_attr perf_event_open quotactl quotactl_fd setdomainname
        sethostname setns statmount listmount syslog umount umount2 unshare
    """,
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module init_module finit_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_RAWIO": "iopl ioperm",
    "CAP_SYS_TIME": "settimeofday stime clock_settime clock_settime64",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYSLOG": "syslog",
}
ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
    "ppc64le": ("SCMP_ARCH_PPC64LE",),
    "riscv64": ("SCMP_ARCH_RISCV64",),
    "s390x": ("SCMP_ARCH_S390X", "SCMP_ARCH_S390"),
}
GO_NAMES = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "riscv64": "riscv64", "s390x": "s390x"}


# Calls that no container may use, whatever it is: obsolete, or about the machine as a whole.
NEVER = """
    _sysctl afs_syscall create_module get_kernel_syms getpmsg kexec_file_load kexec_load move_pages migrate_pages
    nfsservctl pciconfig_iobase pciconfig_read pciconfig_write putpmsg query_module security sgetmask ssetmask swapoff
    swapon sysfs tuxcall uselib userfaultfd ustat vm86 vm86old vmsplice vserver add_key keyctl request_key
    io_uring_setup io_uring_enter io_uring_register pivot_root set_mempolicy mbind get_mempolicy
    set_mempolicy_home_node
"""


def known_calls() -> frozenset[str]:
    """Every call that some rule of ours allows, or none."""
    texts = (*ALWAYS.values(), *ARCH.values(), *BY_CAPABILITY.values(), NEVER)
    return frozenset(name for text in texts for name in text.split())


def _allow(names: str) -> dict[str, Any]:
    return {"names": sorted(names.split()), "action": "SCMP_ACT_ALLOW"}


def default_profile(machine: str, capabilities: frozenset[str]) -> dict[str, Any]:
    """The OCI linux.seccomp document for a machine (``uname -m``) and a container's capabilities."""
    rules = [_allow(" ".join(ALWAYS.values()))]
    extra = ARCH.get(GO_NAMES.get(machine, machine))
    if extra:
        rules.append(_allow(extra))
    for value in PERSONALITIES:
        rules.append(
            {
                "names": ["personality"],
                "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}],
            }
        )
    rules.append(
        {
            "names": ["socket"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_NE"}],
        }
    )
    for capability, names in BY_CAPABILITY.items():
        if capability in capabilities:
            rules.append(_allow(names))
    if "CAP_SYS_ADMIN" not in capabilities:
        rules.append(
            {
                "names": ["clone"],
                "action": "SCMP_ACT_ALLOW",
                # s390 has the flags in the second argument
                "args": [
                    {
                        "index": 1 if machine == "s390x" else 0,
                        "value": NAMESPACE_FLAGS,
                        "valueTwo": 0,
                        "op": "SCMP_CMP_MASKED_EQ",
                    }
                ],
            }
        )
        rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS})
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": list(ARCHITECTURES.get(machine, ())),
        "syscalls": rules,
    }
