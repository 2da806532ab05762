"""The predict command: images of a folder to masks and other files."""
