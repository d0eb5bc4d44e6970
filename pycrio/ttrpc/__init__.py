"""ttrpc (PROTOCOL.md of github.com/containerd/ttrpc): unary calls over a stream socket, in both directions.

    frames.py  headers and messages, without I/O
    link.py    calls of ours and of the peer's over one connection

A leaf that drivers use: NRI plugins are called through a multiplexer (``drivers/nri/frames.py``), containerd shims
directly.
"""
