"""The synthetic data set, whose truth is planted."""
