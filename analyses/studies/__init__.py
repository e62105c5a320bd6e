"""Studies made of several analyses."""
