"""A training, watched: when to check, what to ask of it, and what to do about it."""
