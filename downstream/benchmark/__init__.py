"""Many datasets and encoders, cell by cell, into one leaderboard."""
