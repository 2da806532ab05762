"""Samples to training items: datasets, samplers, the cache."""
