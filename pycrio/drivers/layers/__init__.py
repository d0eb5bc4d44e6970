"""The containers/storage overlay store."""
