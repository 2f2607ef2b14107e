"""The proof that every fold brings along: random examples, and values inside where the outputs prove nothing."""
