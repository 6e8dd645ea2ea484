"""Calls for notebooks and scripts."""
