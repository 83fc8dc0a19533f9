"""Synthetic data set with a planted truth."""
