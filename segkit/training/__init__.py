"""Training with Lightning: the module, the batches, the callbacks and the run folder."""
