"""Perturbed states: return, critical shocks, edge states, planes through state space."""
