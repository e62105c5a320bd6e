"""Results as labelled datasets: names and units, archives, and their validation."""
