"""How networks of each framework are called in train and eval mode, and where their BN statistics lie."""
