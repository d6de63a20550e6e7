"""What needs no encoder: majority class, mean spectra, PCA, minimum noise fraction."""
