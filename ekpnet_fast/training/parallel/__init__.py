"""Training by parts of mini-batches, which several processes may share."""
