"""From a checkpoint and an image of any size to masks."""
