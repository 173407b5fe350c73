"""What the user hands in, looked at once at the door."""
