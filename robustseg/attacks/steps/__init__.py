"""Step rules: from a gradient to the next iterate."""
