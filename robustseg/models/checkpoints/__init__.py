"""Checkpoints of this and of other projects: reading, recognition, renaming, comparison, loading."""
