"""Architectures, one file each. `registry` lists and checks them without JAX; `registry.build` makes one."""
