"""Features of whole scenes: in memory, or written while a scene of any size is read."""
