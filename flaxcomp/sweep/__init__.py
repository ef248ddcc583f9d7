"""Sweep files: their check, their expansion to trials, ids and packs. Imports neither JAX nor Ray nor another room."""
