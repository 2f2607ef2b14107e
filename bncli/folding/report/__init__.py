"""The report of a fold: one row for each BN layer, and the sentences that say why a layer was kept."""
