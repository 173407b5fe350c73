"""Attached to a training: when to check, what to ask, and what to do about a wrong gradient."""
