"""Import of people's own tables and graphs."""
