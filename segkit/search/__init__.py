"""The search command: which configuration suits a data set, by successive halving."""
