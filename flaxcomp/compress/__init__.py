"""Methods that make networks smaller, one folder a kind, one file a method."""
