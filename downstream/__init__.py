"""What an encoder is worth: features, kNN, linear probes, splits, metrics, baselines, reports."""
