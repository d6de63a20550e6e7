"""What the options of an encoder may be, said before anything is built: a bad one is a sentence, no traceback."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from specfm.errors import UsageError
from specfm.limits import excess

Rule = tuple[str, Callable[[Any], bool]]  # what it must be, in words and as a test


def _whole(least: int, multiple: int = 1) -> Rule:
    words = f"a multiple of {multiple}" if multiple > 1 else f"a whole number of at least {least}"
    return words, lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= least and v % multiple == 0


def _number(words: str, holds: Callable[[float], bool]) -> Rule:
    return words, lambda v: isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) and holds(v)


RULES: dict[str, Rule] = {
    "patch_size": _whole(1),
    "dim": _whole(4, multiple=4),  # positions are sines and cosines of rows and of columns
    "depth": _whole(0),  # 0 is the embedding alone
    "heads": _whole(1),
    "mlp_ratio": _number("a number above 0 and up to 64", lambda v: 0 < v <= 64),
    "drop_path": _number("a share from 0 to below 1", lambda v: 0 <= v < 1),
    "layer_scale": _number("a number from 0", lambda v: v >= 0),
    "level": ("one of patch, pixel, sample and none", lambda v: v in ("patch", "pixel", "sample", "none")),
    "normalise": ("one of none, band and dataset", lambda v: v in ("none", "band", "dataset")),
    "gsd_reference_m": _number("a number of metres above 0", lambda v: v > 0),
    **dict.fromkeys(("aligned", "brightness", "pixel"), ("true or false", lambda v: isinstance(v, bool))),
    "trunk": ("one of stem and mae", lambda v: v in ("stem", "mae")),
    # of the embeddings
    "rank": _whole(1),
    "hidden": _whole(2),  # one of them is the constant 1
    "code_width": _whole(4, multiple=4),  # band codes are mixed by four heads
    "bases": _whole(1),
    "hats": _whole(2),
    "image_size": _whole(1),
    "channels": ("a number of bands", lambda v: v is None or _whole(1)[1](v)),  # None: told by a grid
}

# how large they may be: bounds of specfm.limits, so that nothing of an absurd size is built
BOUNDS = {
    **dict.fromkeys(("dim", "heads", "rank", "hidden", "code_width", "bases", "hats"), "width"),
    **{"patch_size": "patch", "depth": "depth", "image_size": "image", "channels": "bands"},
}


def least_parameters(options: Mapping[str, Any]) -> int:
    """How many numbers the trunk of an encoder has at least: of each block four square matrices of attention and two
    of its perceptron."""
    return int(options.get("depth", 0) * options.get("dim", 0) ** 2 * (4 + 2 * options.get("mlp_ratio", 4.0)))


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse values that no encoder can have; names without a rule are the embedding's own affair.

    Args:
        options: of :func:`specfm.models.create_encoder`, ``dim`` and ``heads`` among them.

    Raises:
        UsageError: a value of the wrong kind or range, or a width that the heads do not divide.
    """
    for name, value in options.items():
        words, holds = RULES.get(name, ("", lambda _: True))
        if not holds(value):
            raise UsageError(f"encoder option {name} must be {words}, got {value!r}")
        if name in BOUNDS and isinstance(value, int) and (too_large := excess(BOUNDS[name], value)):
            raise UsageError(f"encoder option {name} is {value}; {too_large}")
    parameters = least_parameters(options)
    if too_many := excess("parameters", parameters):
        raise UsageError(f"an encoder of about {parameters} parameters is not built; {too_many}")
    if options["dim"] % options["heads"]:
        raise UsageError(f"encoder option dim {options['dim']} is not a multiple of its {options['heads']} heads")
