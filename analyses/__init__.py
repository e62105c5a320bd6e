"""eqrlab.analyses"""
