"""Choosing among the answers of many runs, and what depth, breadth and stopping give."""
