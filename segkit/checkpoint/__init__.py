"""What belongs to a trained network, as plain data, and the files that hold it."""
