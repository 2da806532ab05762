"""What is learned of labels and object ids."""
