"""Configurations: from YAML and command lines to objects."""
