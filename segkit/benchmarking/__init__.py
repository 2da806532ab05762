"""How fast and how large networks are: side by side, each in a process of its own, in turns."""
