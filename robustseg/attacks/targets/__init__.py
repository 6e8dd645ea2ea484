"""Targets of targeted attacks: maps from the true labels to the wanted ones."""
