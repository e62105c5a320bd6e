"""Training of every family."""
