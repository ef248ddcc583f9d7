"""Quantization-aware training: a network that rounds as its int8 file will. The only home of qwix."""
