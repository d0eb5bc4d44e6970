"""Options as data: rows, loading, checking, rendering, reloading."""
