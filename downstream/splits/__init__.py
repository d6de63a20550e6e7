"""Which samples train and which test: what moves as one, how a split is drawn, kept and read."""
