"""Scoring a checkpoint on a data set."""
