"""Plugins of the Node Resource Interface (NRI v1alpha1), which follow and adjust pods and containers.

    nri.py        the Nri port: socket, start and end
    hub.py        who has joined, whom to ask, in which order
    launch.py     plugins that are started with the daemon
    plugin.py     one joined plugin: registration, synchronisation, requests, its end
    frames.py     the multiplexer that carries two ttrpc connections (pycrio/ttrpc) over one socket, without I/O
    describe.py   pods, containers and limits as messages, and limits back
    owners.py     who set what; two plugins never set the same
    merge.py      answers of several plugins put together
    apply.py      an adjustment applied to an OCI config
    validator.py  the built-in check of adjustments

Nothing but ``nri.py`` is loaded before the first plugin comes.
"""
