"""Training: from mini-batches to weights."""
