"""Intervals, resampling, ranks and trends."""
