"""Fewer bands, or mixtures of them, in place of all: what a curriculum starts from."""
