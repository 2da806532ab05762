"""A page to try a trained model on, and an HTTP endpoint beside it. Needs the extra ``serve``."""
