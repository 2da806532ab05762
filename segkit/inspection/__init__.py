"""The data command: what a data set holds, and its conversion."""
