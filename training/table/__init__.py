"""What a table is taken for: the kinds of its columns, and what its owner should know of it."""
