"""Griffe extension: docstrings are read by tools as the pages write them (see prose.py)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from griffe import Extension, Object

sys.path.insert(0, str(Path(__file__).parent))
from prose import plain


class PlainDocstrings(Extension):
    """Takes the roles of other markup out of every docstring."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = plain(obj.docstring.value)
