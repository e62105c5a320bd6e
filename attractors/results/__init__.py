"""Results as labelled datasets: names and units, archives, and what a sound archive is."""
