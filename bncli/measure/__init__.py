"""Measurements of a network on data: its score on a split, the moments of its BN inputs, population statistics."""
