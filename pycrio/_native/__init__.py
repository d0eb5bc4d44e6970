"""The compiled core and its thin bindings (room 4): ints, bytes and paths in; results or NativeError out."""
