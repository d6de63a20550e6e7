"""Pairings: what the second view of a sample is made of. One file each behind ``pairing.py``."""
