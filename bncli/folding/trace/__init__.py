"""A network as data: its operations, and the values that need no input."""
