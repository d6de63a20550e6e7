"""What scenes are called: splits, groups and instance ids hang on it, so no two scenes of a data set share a name."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from specfm.errors import SpecfmError


def scene_names(
    paths: Sequence[Path], stems: Sequence[str] | None = None, arrays: Sequence[str | None] | None = None
) -> list[str]:
    """One name per file: its stem; where stems repeat, its path below the folder that all repeated ones have in common.

    Several arrays of one file are told apart by the array's name. Unique stems stay as they are, whatever lies beside.

    Args:
        paths: the files.
        stems: what each is called if nothing else is; by default the stems of the paths.
        arrays: the array read of each, where a file holds several.

    Raises:
        SpecfmError: two files that no name tells apart (``a.tif`` beside ``a.hdr``); the message names both.

    Example:
        >>> scene_names([Path("lab/a/raw.hdr"), Path("lab/b/raw.hdr"), Path("lab/leaf.tif")])
        ['a/raw', 'b/raw', 'leaf']
    """
    whole = [Path(os.path.abspath(path)) for path in paths]
    names = list(stems or (path.stem for path in whole))
    if repeated := _repeated(names):
        common = os.path.commonpath([whole[i].parent for i in repeated])
        for i in repeated:
            names[i] = (whole[i].parent.relative_to(common) / names[i]).as_posix()
    if arrays is not None:
        for i in _repeated(names):
            names[i] = f"{names[i]}/{arrays[i]}" if arrays[i] else names[i]
    if repeated := _repeated(names):
        one, two = [i for i in repeated if names[i] == names[repeated[0]]][:2]
        raise SpecfmError(
            f"{paths[one]} and {paths[two]} would both be scene {names[one]!r}; leave one out or rename it"
        )
    return names


def _repeated(names: Sequence[str]) -> list[int]:
    count = Counter(names)
    return [i for i, name in enumerate(names) if count[name] > 1]
