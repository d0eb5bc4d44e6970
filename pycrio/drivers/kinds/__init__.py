"""One object per port in front of the kinds of handlers: OCI runtimes, whose containers are processes of the host, and
handlers of type vm, whose containers only shims know.

    runtime.py   the Runtime port
    monitors.py  the Monitors port: a monitor is the same for both, what it starts is not
    tasks.py     the Tasks port
    shims.py     what is asked of the shims; they are made when the first handler needs them
"""
