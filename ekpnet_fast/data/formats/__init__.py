"""Data sets in the formats of files, read and written."""
