"""Attack losses: one value per image, increased by an untargeted attack."""
