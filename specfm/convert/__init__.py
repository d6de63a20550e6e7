"""Published weights of other projects -> release folders."""
