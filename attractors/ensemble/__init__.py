"""Ensembles: many runs of many puzzles, what became of each, and going on with them."""
