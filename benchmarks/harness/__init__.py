"""Measure ours against a peer: each candidate in a process of its own, in alternating runs."""
