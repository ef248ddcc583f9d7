"""One file a command: the file `NAME.py` defines `command`, a click command called NAME."""
