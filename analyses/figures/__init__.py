"""Pictures of results: pure functions from datasets to figures."""
