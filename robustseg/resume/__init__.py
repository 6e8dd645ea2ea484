"""Resuming: run folders, checkpoint files, continuation, signals and the callback that saves."""
