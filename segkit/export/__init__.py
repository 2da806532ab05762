"""Export: a checkpoint as a file that other runtimes read, checked against the network."""
