"""Layouts of other projects' state dicts, one file per project."""
