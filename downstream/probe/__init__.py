"""Frozen features of one encoder against every control, on one set of samples and splits."""
