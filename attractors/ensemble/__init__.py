"""Ensembles: many runs of many puzzles, their fates, and how they are continued."""
