"""NetAdapt (Yang et al. 2018): of one candidate for each layer, the one that loses the least accuracy for what it saves."""
