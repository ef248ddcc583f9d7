"""Benchmarks: each prints its ratio with its spread and writes JSON under results/."""
