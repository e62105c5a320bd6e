"""How a run ends: the fate of its states, from cycles, drift and the sets that it scatters over."""
