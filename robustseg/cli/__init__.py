"""Command line: entry point, commands and their messages."""
