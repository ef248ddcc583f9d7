"""`python -m flaxcomp`, the same as `flaxcomp`."""

from flaxcomp.cli.main import main

main()
