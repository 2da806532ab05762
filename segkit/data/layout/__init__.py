"""Where samples lie: folders, names and tables, and how samples are divided."""
