"""Linear algebra without matrices, many operators at once: eigenpairs, singular triples and linear solves."""
