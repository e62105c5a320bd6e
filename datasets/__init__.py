"""eqrlab.datasets"""
