"""MorphNet (Gordon et al. 2018): a penalty on what channels cost, then a width multiplier."""
