"""The options of every command: composition, types, defaults and checks."""
