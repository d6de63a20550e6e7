"""Run by ``test_big_scene``: maps a large scene and prints the peak of its resident memory.

Usage: python big_scene.py MODEL SCENE OUT
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from downstream.maps.class_maps import Layout
from downstream.maps.predict import predict_to_file
from downstream.supervised.folder import load_task
from specfm.readers import read_scene


def main(model_folder: str, scene_path: str, out: str) -> None:
    model, scene, start = load_task(model_folder), read_scene(scene_path), time.monotonic()
    shares = predict_to_file(model, [scene], Path(out), layout=Layout(stride=96, halo=16), batch_size=8)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    print(json.dumps({"peak_bytes": peak, "seconds": time.monotonic() - start, "shares": shares}))


if __name__ == "__main__":
    main(*sys.argv[1:])
