"""flaxcomp: high-throughput sweeps that make Flax networks small."""

__version__ = "0.1.0"
