"""Computations that are exact on every device: full precision, and resizing by matrices."""
