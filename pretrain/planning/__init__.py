"""What a pretraining will need, before it is started: memory, time, reading. ``specfm plan CONFIG``."""
