"""Pretraining: sampler, loader, views, objectives, loop. ``torchrun -m pretrain CONFIG``."""
