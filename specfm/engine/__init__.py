"""What any training loop needs: run folder, checkpoints, guard against bad steps, metrics, distributed helpers."""
