"""Attractors, their basins and masses, and the mode of each puzzle."""
