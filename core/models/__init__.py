"""The System protocol and the model families that implement it."""
