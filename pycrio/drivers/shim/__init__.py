"""Containers that a containerd shim runs (runtime v2), for handlers of type vm: Kata Containers, gVisor and others.

    shims.py      the verbs, on containers by id
    place.py      the directory of one container: what it is made of, and what the monitor's side reads
    bootstrap.py  a shim's start and its clean-up command
    calls.py      calls of the shims, one connection for each
    options.py    what a shim is told when it starts and with each container
    stuck.py      the end of a shim that does not answer
    execs.py      commands run in a container
    metrics.py    readings of shims in our terms
    events.py     what shims tell on their own
    publish.py    the command that tells of an event for a shim
    names.py      names of the protocol

There is one shim per pod. A container's monitor runs ``pycrio-task`` (csrc/task) as its runtime, which has the shim
create the container and stands for it from then on: log, attach and exit code are the monitor's, as with OCI runtimes,
and go on without the daemon.
"""
