"""What pushes do: return, shocks, edges, planes through state space."""
