"""Native files: facts of their build, and loading."""
