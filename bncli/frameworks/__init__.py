"""One module per framework: calls its networks in train and eval mode, and knows the place of their BN statistics."""
