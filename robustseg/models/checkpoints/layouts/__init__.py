"""Layouts of other projects' state dicts, one project a file."""
