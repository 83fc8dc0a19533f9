"""The native files: what was built, and how it is loaded."""
