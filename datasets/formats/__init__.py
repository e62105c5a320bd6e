"""Tables of puzzles: what all have in common, and the readers of those that are not lines of text."""
