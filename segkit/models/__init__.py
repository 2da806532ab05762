"""The networks, in pure PyTorch: encoders, necks, heads and their composition."""
