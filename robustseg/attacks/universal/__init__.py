"""Universal perturbations: one for a whole data set."""
