"""The construction path from a feedforward model to EqR."""
