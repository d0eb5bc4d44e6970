"""One module per command of the program; ``__main__`` chooses."""
