"""What labels train: a model with a head, and the one trainer of its kind."""
