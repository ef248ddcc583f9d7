"""Where data come from, one file a source. Registries and TFDS have `fetch`, readers of a path `recognises` and `read`."""
