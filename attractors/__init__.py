"""eqrlab.attractors"""
