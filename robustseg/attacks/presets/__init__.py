"""Named attacks, each a composition of a threat, a loss and a step rule."""
