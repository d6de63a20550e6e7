"""`specfm relate`: specimens beside each other: who is like whom, and whether classes show without labels."""
