"""Overlays, charts, score tables and the HTML page of a run. No torch."""
