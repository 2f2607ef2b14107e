"""Helpers that tests share: small data sets and networks, files of other programs, planted faults, damage."""
