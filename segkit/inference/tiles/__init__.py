"""Images of any size through a network, tile by tile."""
