"""Data sets: a catalog, verified sources, and decoded arrays that load without TensorFlow."""
