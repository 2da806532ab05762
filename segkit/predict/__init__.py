"""Images of a folder to masks and what else is wanted of them, in files."""
