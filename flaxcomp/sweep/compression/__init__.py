"""The blocks of a trial that make its trained network smaller, one file each; none of it needs JAX."""

METHODS = ("prune", "morphnet", "netadapt", "cramnet", "subset", "quantize")  # in the order in which they apply
