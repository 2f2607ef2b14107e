"""The work of each command, without a terminal: every job takes values and returns a result."""
