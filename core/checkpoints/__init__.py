"""Reading and writing checkpoints: eqrlab's own, official ones, the hub's."""
