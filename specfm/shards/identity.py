"""What a scene, and a shard cut from it, is known by: digests of files, labels, references and recipes."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from specfm.calibration import CalibratedSource
from specfm.digests import digest_json, digest_parts
from specfm.errors import SpecfmError
from specfm.files import sha256_file
from specfm.pretreatment.scene import PretreatedSource
from specfm.scene import ArraySource, Scene


def scene_identity(scene: Scene) -> dict[str, Any]:
    """What a scene's samples depend on, with digests of its file, labels and references; no path, no time."""
    identity: dict[str, Any] = {
        "name": scene.name,
        "shape": list(scene.shape),
        "dtype": scene.dtype.name,
        "sensor": scene.sensor.digest,
        "nodata": None if scene.nodata is None else str(scene.nodata),
        "saturation": scene.saturation,
        "domain": scene.domain,
        "group": scene.group,
        "content": scene_content(scene),
    }
    # what no field of the scene shows: a calibration per band, a pretreatment, a choice of bands, a view of a specimen
    if not scene.neighbours:
        identity["neighbours"] = False
    gains = getattr(scene.source, "digest", None)
    if gains is not None:
        identity["gains"] = gains
    for field in ("labels_HW", "groups_HW"):
        array = getattr(scene, field)
        identity[field] = None if array is None else digest_parts([array])
    return identity


def scene_content(scene: Scene) -> str:
    """32 hex digits over the file or array behind a scene, whatever its name and whatever of it is shown how.

    Raises:
        SpecfmError: a scene that has neither.
    """
    digest = hashlib.sha256()
    source: Any = scene.source
    while (under := _under(source)) is not None:
        source = under
    if isinstance(source, CalibratedSource):
        digest.update(np.ascontiguousarray(source.dark_WC))
        digest.update(np.ascontiguousarray(source.span_WC))
        digest.update(str(source.raw.saturation).encode())
        digest.update(b"" if source.raw.nodata is None else str(source.raw.nodata).encode())
        source = source.raw.source
    if isinstance(source, ArraySource):
        digest.update(np.ascontiguousarray(source.cube_HWC))
        return digest.hexdigest()[:32]
    files = {scene.path, getattr(source, "path", None)} - {None}
    if not files:
        raise SpecfmError(f"{scene.where}: a scene without a file or an array cannot be identified")
    for file in sorted(str(f) for f in files):
        digest.update(sha256_file(file).encode())
    return digest.hexdigest()[:32]


def _under(source: Any) -> Any:
    """The cube that a source shows some bands of, a specimen of, or pretreated; None if it is that cube."""
    return source.measured.source if isinstance(source, PretreatedSource) else getattr(source, "under", None)


def recipe_digest(recipe: dict[str, Any]) -> str:
    """16 hex digits."""
    return digest_json(recipe)
