"""Commands of the flaxcomp program, one file each in `commands/`; the only room that prints."""
