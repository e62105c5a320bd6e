"""How a run ends: the fate of its states, found from residuals, cycles, drift and recurrent sets."""
