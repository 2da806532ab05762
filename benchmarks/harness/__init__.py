"""Measure ours against a peer: each candidate in its own process, in alternating runs."""
