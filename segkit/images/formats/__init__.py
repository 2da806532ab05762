"""Formats of image files, one a module."""
