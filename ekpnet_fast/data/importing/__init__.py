"""Import of a user's own tables and graphs."""
