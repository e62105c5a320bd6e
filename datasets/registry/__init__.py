"""Tasks: one file each, found by name, by the sizes of a folder or a model, or by how a line of text looks."""
