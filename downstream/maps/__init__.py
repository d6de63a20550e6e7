"""From a scene to a map: classes, changes, clusters and similarity, streamed over scenes of any size."""
