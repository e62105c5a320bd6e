"""What tables of puzzles have in common, and those that are no text of lines."""
