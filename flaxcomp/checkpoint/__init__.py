"""The only home of Orbax: checkpoints of packs in training, and the files of finished networks."""

import logging

# Orbax tells every step of every save, and prints the traceback of what it also raises.
logging.getLogger("absl").setLevel(logging.CRITICAL)
