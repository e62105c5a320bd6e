"""Choosing among the answers of many runs, and the effect of depth, breadth and stopping."""
