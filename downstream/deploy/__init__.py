"""Task models as files that other runtimes run, and the maps made with those files."""
