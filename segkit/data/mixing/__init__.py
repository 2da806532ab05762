"""Augmentation that puts parts of several crops together."""
