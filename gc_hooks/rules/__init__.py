"""What a bug looks like, and its name."""
