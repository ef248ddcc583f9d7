"""CramNet (Hoffman 2018): a network is made smaller layer by layer, from its output to its input, taught by its old self."""
