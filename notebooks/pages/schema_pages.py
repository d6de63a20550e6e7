"""Pages of what a file of settings may say, made of the pydantic models that check it."""

from __future__ import annotations

import datetime
import types
import typing
from collections.abc import Iterator
from enum import Enum
from typing import Annotated, Any, Literal

from prose import entries, opening
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

Model = type[BaseModel]
NAMES = {
    str: "text", int: "whole number", float: "number", bool: "true or false", datetime.date: "date", Any: "anything",
    dict: "mapping", list: "list", tuple: "list",
}  # fmt: skip
LIMITS = {
    "ge": "at least {}",
    "gt": "above {}",
    "le": "at most {}",
    "lt": "below {}",
    "min_length": "at least {} of them",
}


def page(title: str, words: str, root: Model, named: str) -> str:
    """Markdown of a model and of every model in it.

    Args:
        title: of the page.
        words: what stands above the tables.
        root: the model of the whole file.
        named: what the keys of the whole file are headed.
    """
    sections = list(_sections(root, named))
    anchors = {model: _anchor(heading) for heading, model in reversed(sections)}
    parts = [f"# {title}", words]
    for heading, model in sections:
        parts += [f"## {heading} {{#{_anchor(heading)}}}", opening(model), _table(model, anchors)]
    return "\n\n".join(parts) + "\n"


def _sections(model: Model, path: str, seen: set[Model] | None = None) -> Iterator[tuple[str, Model]]:
    seen = set() if seen is None else seen
    if model in seen:
        return
    seen.add(model)
    yield path, model
    for name, field in model.model_fields.items():
        for inner in _models(field.annotation):
            prefix = "" if " " in path else path + "."
            yield from _sections(inner, f"{prefix}{name}", seen)


def _models(annotation: Any) -> Iterator[Model]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models(inner)


def _table(model: Model, anchors: dict[Model, str]) -> str:
    texts: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if issubclass(kind, BaseModel) and kind is not BaseModel:
            texts |= entries(kind)
    rows = ["| key | value | default | what it says |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        inner = next(_models(field.annotation), None)
        words = field.description or texts.get(name) or ("" if inner is None else opening(inner).split("\n\n")[0])
        cells = (f"`{name}`", _value(field, anchors), _default(field), words)
        rows.append("| " + " | ".join(cell.replace("\n", " ").replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _value(field: FieldInfo, anchors: dict[Model, str]) -> str:
    words = [_type(field.annotation, anchors)]
    words += [_limit(each) for each in field.metadata if _limit(each)]
    return ", ".join(words)


def _limit(constraint: Any) -> str:
    if isinstance(constraint, FieldInfo):
        return ", ".join(filter(None, map(_limit, constraint.metadata)))
    stated = ((text, getattr(constraint, key, None)) for key, text in LIMITS.items())
    return ", ".join(text.format(value) for text, value in stated if value is not None)


def _type(annotation: Any, anchors: dict[Model, str]) -> str:
    """A type in words: `a` or `b`, list of text, mapping, or a link to the table of a section."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        limits = [_limit(each) for each in inner[1:] if _limit(each)]
        return ", ".join([_type(inner[0], anchors), *limits])
    if origin is Literal:
        return " or ".join(f"`{each}`" for each in inner)
    if origin in (typing.Union, types.UnionType):
        kinds = [_type(each, anchors) for each in inner if each is not type(None)]
        return " or ".join(dict.fromkeys(kinds))
    if origin in (list, set, frozenset) or (origin is tuple and inner[-1] is Ellipsis):
        return f"list of {_type(inner[0], anchors)}"
    if origin is tuple:
        return "list of " + ", ".join(_type(each, anchors) for each in inner)
    if origin is dict:
        return f"mapping of {_type(inner[0], anchors)} to {_type(inner[1], anchors)}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[mapping](#{anchors[annotation]})"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(f"`{each.value}`" for each in annotation)
    return NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = field.default if field.default is not PydanticUndefined else field.default_factory()  # type: ignore[call-arg,misc]
    if value is None or isinstance(value, BaseModel) or value in ("", (), [], {}):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def _anchor(heading: str) -> str:
    return heading.lower().replace(" ", "-").replace(".", "-").replace("_", "-")
