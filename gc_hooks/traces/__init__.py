"""Leaving none: whatever a check touches is what it was."""
