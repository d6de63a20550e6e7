"""What an encoder says of labelled windows: extraction, its bank on disk, pooling, published encoders, raw spectra."""
