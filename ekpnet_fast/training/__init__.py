"""From mini-batches to weights."""
