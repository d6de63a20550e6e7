"""Recipes that start a run on several machines, and the launcher they use: ``python -m pretrain.launch``."""
