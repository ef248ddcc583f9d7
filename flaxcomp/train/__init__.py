"""The one training loop: pure functions on stacked states, many trials in one program."""
