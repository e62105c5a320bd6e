"""Reading and writing checkpoints: eqrlab's own, official ones, and those on the hub."""
