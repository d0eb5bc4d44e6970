"""Configuration as data: rows of options, loading, checking, rendering and comparing.

``load.load`` makes a ``values.Config``; everything that is printed about options (default file, flags, completion,
manuals) is rendered from the rows in ``options``.
"""
