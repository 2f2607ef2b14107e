"""The rewrite of a network: edits, the new arrays, and the program that runs with them at any batch size."""
