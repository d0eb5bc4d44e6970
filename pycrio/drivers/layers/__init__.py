"""The image and container store, format-compatible with containers/storage and its overlay driver.

``store.Store(Settings)`` ties it together. From the files up: ``locks`` (lock files and tokens) and ``files`` (atomic
writes, staging places); ``records`` (JSON) in a ``table`` (one list under its locks, read without them); ``index`` (all
lists, look-ups); ``overlay`` (driver directories), ``mounting``; and the ports: ``unpack`` (Layers), ``images``,
``rootfs``, with ``removal``, ``recover`` and ``usage`` beside them. ``turn`` brings blocking work off the event loop.
"""
