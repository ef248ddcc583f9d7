"""Channel pruning: what must go together, what goes, and the smaller network."""
