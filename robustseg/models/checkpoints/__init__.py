"""Checkpoints of this and of other projects: read, recognise, rename, compare, load."""
