"""How a command starts, and its help page."""
