"""Ensembles larger than memory, written while they are sampled."""
