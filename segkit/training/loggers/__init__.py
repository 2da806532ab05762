"""Programs that show a training while it runs."""
