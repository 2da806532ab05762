"""From class probabilities to objects."""
