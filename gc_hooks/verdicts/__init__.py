"""From measured slopes to a verdict, and to the entries that are wrong."""
