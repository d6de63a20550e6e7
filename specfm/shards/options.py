"""How cubes are cut into windows and packed, and where each default of ``write_shards`` and ``specfm shard`` stands."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from specfm.errors import UsageError

WINDOW = 32  # side of a window where none is asked for, pixels
CODEC = "none"
MOST_WORKERS = 8  # reading processes, where none are asked for


@dataclass(frozen=True)
class WindowOptions:
    """How windows are cut and kept.

    Attributes:
        window: (rows, columns) in pixels.
        stride: (rows, columns) in pixels. The last window of a row or column lies flush with the border.
        min_valid: least share of valid pixels (of object pixels, where objects are masked).
        label: ``centre`` (the centre pixel's) or ``majority`` (the most frequent class among labelled pixels).
        labelled_only: drop windows without a label.
        object_threshold: ``otsu``, or a mean level in stored units; pixels on the far side are background and masked.
        dark_objects: objects lie below the threshold instead of above.
    """

    window: tuple[int, int] = (WINDOW, WINDOW)
    stride: tuple[int, int] = (WINDOW // 2, WINDOW // 2)
    min_valid: float = 0.5
    label: str = "centre"
    labelled_only: bool = False
    object_threshold: float | str | None = None
    dark_objects: bool = False

    def __post_init__(self) -> None:
        if min(*self.window, *self.stride) < 1:
            raise UsageError(f"window {self.window} and stride {self.stride} must be at least one pixel")
        if not 0 <= self.min_valid <= 1:
            raise UsageError(f"min_valid is a share between 0 and 1, got {self.min_valid}")
        if self.label not in ("centre", "majority"):
            raise UsageError(f"label is {self.label!r}; give centre or majority")
        if isinstance(self.object_threshold, str) and self.object_threshold != "otsu":
            raise UsageError(f"object threshold is {self.object_threshold!r}; give a number or otsu")
        if self.dark_objects and self.object_threshold is None:
            raise UsageError("dark objects need an object threshold (a number or otsu)")

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {**asdict(self), "window": list(self.window), "stride": list(self.stride)}
