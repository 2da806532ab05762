"""Crops and augmentation."""
