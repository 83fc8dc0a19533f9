"""A run's folder: options, training, evaluation, report, search."""
