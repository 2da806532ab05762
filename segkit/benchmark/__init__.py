"""The benchmark command: what encoders and necks cost on this machine."""
