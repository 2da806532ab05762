"""Check a data set before training: report every problem by file, and summarize a good set."""
