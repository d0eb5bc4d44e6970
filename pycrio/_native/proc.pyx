# cython: language_level=3
"""Processes: start a program with an exact descriptor table, wait for it and signal it by pidfd, recognise it later.

Paths, arguments and environment are bytes. ``pycrio._native.run`` is the comfortable layer above.
"""

import os as _os

from libc.errno cimport ESRCH
from libc.stdlib cimport free, malloc
from pycrio._native.base cimport native_error
from pycrio._native.c_common cimport pc_err
from pycrio._native.c_proc cimport (
    PC_SPAWN_CGROUP, PC_SPAWN_OOM, PC_SPAWN_SESSION, pc_alive, pc_copy_fd, pc_exit, pc_find_program, pc_read_stat,
    pc_signal, pc_signal_group, pc_spawn, pc_spawn_args, pc_spawn_fd, pc_stat, pc_wait,
)

cdef enum:
    PATH_SIZE = 4096


cdef char *text(bytes value, str what) except NULL:
    """The C string of value, which lives as long as value does."""
    if value is None:
        raise TypeError(f"{what} must be bytes, not None")
    if b"\0" in value:
        raise ValueError(f"{what} contains a NUL byte")
    return <char *>value


cdef char **vector(tuple values, str what) except NULL:
    """A NULL terminated array over the strings of values; the caller frees the array and keeps values."""
    cdef Py_ssize_t i, n = len(values)
    cdef char **out = <char **>malloc((n + 1) * sizeof(char *))
    if out == NULL:
        raise MemoryError()
    try:
        for i in range(n):
            out[i] = text(values[i], what)
    except:
        free(out)
        raise
    out[n] = NULL
    return out


def find_program(bytes name not None, bytes path not None):
    """Where execvp would find ``name`` along ``path`` (a PATH value); a name with a slash is its own answer.

    Raises NativeError: ENOENT, or EACCES when there is only one that may not be executed.
    """
    cdef char found[PATH_SIZE]
    cdef pc_err err
    cdef int r
    cdef char *c_name = text(name, "program name")
    cdef char *c_path = text(path, "PATH")
    with nogil:
        r = pc_find_program(c_name, c_path, found, PATH_SIZE, &err)
    if r < 0:
        raise native_error(&err)
    return <bytes>found


def spawn(argv, envp, fds, *, bytes path=None, bytes cwd=None, bint new_session=True, int cgroup_fd=-1,
          cgroup_procs=(), oom_score_adj=None, int pdeathsig=0):
    """Start a program; (pid, pidfd) once it runs. The caller owns the pidfd (close-on-exec) and must reap.

    ``fds``: pairs (number in the program, our descriptor), the program's whole table; ours stay open. ``path`` is the
    program, argv[0] when absent; there is no search. ``cgroup_fd``: a cgroup v2 directory that it is born in;
    ``cgroup_procs``: open cgroup.procs files that it joins before it runs. ``pdeathsig`` goes to the program when the
    calling *thread* ends. Blocks the thread, not the others, until exec is done.
    Raises NativeError whose step is "exec" (with the program as filename), "chdir", "clone", "cgroup" and so on.
    """
    cdef tuple args = tuple(argv), env = tuple(envp), table = tuple(fds), procs = tuple(cgroup_procs)
    cdef char **c_argv = NULL
    cdef char **c_envp = NULL
    cdef pc_spawn_fd *c_fds = NULL
    cdef int *c_procs = NULL
    cdef pc_spawn_args s
    cdef pc_err err
    cdef int r, pid = -1, pidfd = -1
    cdef Py_ssize_t i
    if not args:
        raise ValueError("argv is empty")
    s.path = text(args[0] if path is None else path, "program path")
    s.cwd = NULL if cwd is None else text(cwd, "working directory")
    s.flags = PC_SPAWN_SESSION if new_session else 0
    s.cgroup_fd = cgroup_fd
    if cgroup_fd >= 0:
        s.flags |= PC_SPAWN_CGROUP
    s.oom_score_adj = 0
    if oom_score_adj is not None:
        s.oom_score_adj = oom_score_adj
        s.flags |= PC_SPAWN_OOM
    s.pdeathsig = pdeathsig
    try:
        c_argv = vector(args, "argument")
        c_envp = vector(env, "environment")
        c_fds = <pc_spawn_fd *>malloc((len(table) + 1) * sizeof(pc_spawn_fd))
        c_procs = <int *>malloc((len(procs) + 1) * sizeof(int))
        if c_fds == NULL or c_procs == NULL:
            raise MemoryError()
        for i in range(len(table)):
            c_fds[i].child, c_fds[i].parent = table[i]
        for i in range(len(procs)):
            c_procs[i] = procs[i]
        s.argv, s.envp = c_argv, c_envp
        s.fds, s.n_fds = c_fds, len(table)
        s.procs_fds, s.n_procs_fds = c_procs, len(procs)
        with nogil:
            r = pc_spawn(&s, &pid, &pidfd, &err)
    finally:
        free(c_argv)
        free(c_envp)
        free(c_fds)
        free(c_procs)
    if r < 0:
        raise native_error(&err)
    return pid, pidfd


def wait(int pidfd, bint nohang=False):
    """Reap the child behind ``pidfd``: (code, signal), one of them 0; None when ``nohang`` and it still runs.

    Raises NativeError ECHILD when something else reaped it and the kernel (before 6.15) does not tell how it ended.
    """
    cdef pc_exit end
    cdef pc_err err
    cdef int r
    with nogil:
        r = pc_wait(pidfd, nohang, &end, &err)
    if r < 0:
        raise native_error(&err)
    return None if r == 0 else (end.code, end.signal)


def send_signal(int pidfd, int sig):
    """Send ``sig`` to the process behind ``pidfd``. Raises NativeError; ESRCH when it has ended and was reaped."""
    cdef pc_err err
    cdef int r
    with nogil:
        r = pc_signal(pidfd, sig, &err)
    if r < 0:
        raise native_error(&err)


def copy_fd(int pidfd, int fd):
    """A copy (close-on-exec, caller's) of a descriptor of the process behind ``pidfd``; nothing is opened anew.

    Raises NativeError: EBADF when it has none such, ESRCH when it has ended, EPERM without the right to trace it.
    """
    cdef pc_err err
    cdef int r, copy = -1
    with nogil:
        r = pc_copy_fd(pidfd, fd, &copy, &err)
    if r < 0:
        raise native_error(&err)
    return copy


def signal_group(int pidfd, int pid, int sig):
    """Send ``sig`` to the process group that ``pid`` (behind ``pidfd``) leads; call it before reaping the leader.

    Raises NativeError; ESRCH when the group has no member.
    """
    cdef pc_err err
    cdef int r
    with nogil:
        r = pc_signal_group(pidfd, pid, sig, &err)
    if r < 0:
        raise native_error(&err)


def start_time(int pid):
    """When the process started, in clock ticks after boot (proc_pid_stat(5), field 22): with the pid its identity.

    0 when there is no such process (any more): pids are asked about that may end at any moment.
    """
    cdef pc_stat st
    cdef pc_err err
    cdef int r
    with nogil:
        r = pc_read_stat(pid, &st, &err)
    if r == -ESRCH:
        return 0
    if r < 0:
        raise native_error(&err)
    return st.start_time


def alive(int pid, unsigned long long start_time):
    """True while the process of that pid and start time lives; False when absent, a zombie, or the pid is reused."""
    cdef pc_err err
    cdef int r
    with nogil:
        r = pc_alive(pid, start_time, &err)
    if r < 0:
        raise native_error(&err)
    return r == 1


def open_process(int pid, unsigned long long start_time):
    """A pidfd (close-on-exec, caller's) of exactly that process, or None when it does not live any more.

    The descriptor becomes readable when the process ends. Raises NativeError for anything but absence.
    """
    if pid <= 0:
        return None
    try:
        fd = _os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    # Opened first, compared second: what the descriptor holds cannot be another process than the one compared.
    try:
        if alive(pid, start_time):
            return fd
    except BaseException:
        _os.close(fd)
        raise
    _os.close(fd)
    return None
