"""Images and masks: reading, pairing, checking, augmenting, loading."""
