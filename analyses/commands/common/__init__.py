"""What several commands share: what to run, what it will cost, where it goes, how it stops and goes on."""
