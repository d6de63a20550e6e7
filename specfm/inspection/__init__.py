"""What looks wrong in a scene: constant or saturated bands, stripes, lost pixels."""
