"""Maps and pictures on disk: rasters row by row, class maps, quicklooks, false colours."""
