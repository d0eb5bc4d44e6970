"""What is remembered: records, indexes, names."""
