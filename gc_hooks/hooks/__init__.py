"""Attached to a training: when to check, what to ask, what to do about it."""
