"""Records of a run in SQL, its paths and schema versions. Reading a run needs neither JAX nor Ray."""
