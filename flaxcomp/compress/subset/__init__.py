"""Distill-Net (Motamedi et al.): what a trained network needs for some of its classes, and nothing else; no training."""
