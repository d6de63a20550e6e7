"""What goes with a released encoder: its card and the spectra of its sensors."""
