"""The search for folds: where the BN layers are, which way each can go, and which plan keeps the fewest."""
