"""Container monitors."""
