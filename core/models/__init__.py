"""The System protocol and the families that keep it."""
