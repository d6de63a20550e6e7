"""Typed configurations: YAML and ``key=value`` overrides in, a checked pydantic model out; strict about every key.

A configuration is a :class:`Strict` model. An unknown key, a value of the wrong type or a duplicated key ends in one
line that names the file, each dotted key and, for a mistyped key, the nearest valid name, before any work begins.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from specfm.digests import digest_json
from specfm.documents import parse_yaml
from specfm.errors import UsageError


class Strict(BaseModel):
    """Base of every configuration section: unknown keys are refused, values are checked, instances are frozen.

    Attributes:
        keys_beside: what may be written beside the fields, where a validator moves it elsewhere.
        other_names: what other programs call a key -> the dotted key here; for messages.
    """

    keys_beside: ClassVar[tuple[str, ...]] = ()
    other_names: ClassVar[Mapping[str, str]] = {}

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


Model = TypeVar("Model", bound=BaseModel)
MOST_PROBLEMS = 12  # told at once


def load_config(path: Path | str | None, model: type[Model], overrides: list[str] | None = None) -> Model:
    """Read a YAML file into ``model`` and apply dotted ``key=value`` overrides (values are YAML).

    Args:
        path: YAML file, as given or relative to ``configs/`` (see :func:`find_config`); None starts from the defaults.
        model: The pydantic class (sections are nested classes) that says which keys exist.
        overrides: Such as ``["optim.lr=1e-3", "data.shards=[a, b]"]``; later ones win.

    Raises:
        UsageError: the file is missing or is not YAML, a key is unknown or given twice, a value has the wrong type.

    Example:
        >>> class C(Strict):
        ...     steps: int = 10
        >>> load_config(None, C, ["steps=20"]).steps
        20
    """
    source = "the command line"
    values: dict[str, Any] = {}
    if path is not None:
        path = find_config(path)
        source = str(path)
        values = read_yaml(path)
    for text in overrides or []:
        _apply_override(values, text)
    told = [text.partition("=")[0].strip() for text in overrides or []]
    return build_config(values, model, source, told)


def build_config(values: dict[str, Any], model: type[Model], source: str, overrides: Sequence[str] = ()) -> Model:
    """Check plain values against ``model``; problems are reported in one line that begins with ``source``, or where all
    are of keys in ``overrides``, with the command line."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        where = [".".join(map(str, each["loc"])) for each in error.errors()]
        if all(any(f"{key}.".startswith(f"{told}.") for told in overrides) for key in where):
            source = "the command line"
        raise UsageError(f"{source}: {_explain(error, model)}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Parse one YAML mapping (safe types only); duplicated keys are refused, an empty file is an empty mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} cannot be read as text (no UTF-8 at byte {error.start})") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read as text ({error.strerror})") from None
    values = parse_yaml(text, path)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds a {type(values).__name__}, not a mapping of keys to values")
    return values


def find_config(relative: Path | str) -> Path:
    """Find a configuration file: as given, else below ``configs/`` of the checkout, else inside the installed package.

    Raises:
        UsageError: found nowhere; the message offers the nearest names.
    """
    given = Path(relative)
    if given.is_file():
        return given
    inner = Path(*given.parts[1:]) if given.parts[:1] == ("configs",) else given
    if given.is_absolute() or ".." in inner.parts or not inner.parts:
        raise UsageError(f"{given} does not exist")
    roots = config_roots()
    for root in roots:
        for candidate in (inner, inner.with_name(inner.name + ".yaml")):
            if (root / candidate).is_file():
                return root / candidate
    known = sorted(
        {p.relative_to(root).as_posix() for root in roots for p in root.rglob("*.yaml") if not p.name.startswith(".")}
    )
    close = difflib.get_close_matches(inner.as_posix(), known, n=3, cutoff=0.5)
    raise UsageError(f"{given} does not exist{'; did you mean ' + ' or '.join(close) + '?' if close else ''}")


def config_roots() -> list[Path]:
    """Folders of shipped configurations: ``configs/`` beside the package in a checkout, ``_configs`` in a wheel."""
    package = Path(__file__).resolve().parent
    checkout = package.parent
    roots = [checkout / "configs"] if (checkout / "pyproject.toml").is_file() else []
    return [root for root in [*roots, package / "_configs"] if root.is_dir()]


def to_dict(config: BaseModel) -> dict[str, Any]:
    """The resolved configuration as JSON-safe values."""
    return config.model_dump(mode="json")


def to_yaml(config: BaseModel) -> str:
    """The resolved configuration as YAML that :func:`load_config` reads back to an equal object."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, default_flow_style=None, width=120)


def digest(config: BaseModel | dict[str, Any]) -> str:
    """16 hex digits over the resolved values; equal for equal configurations whatever the order of keys."""
    values = config if isinstance(config, dict) else to_dict(config)
    return digest_json(values)


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, as ``{key: (old, new)}``; a key on one side only is paired with None."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted(set(old) | set(new)):
        left, right, dotted = old.get(key), new.get(key), f"{prefix}{key}"
        if isinstance(left, dict) and isinstance(right, dict):
            found |= differences(left, right, f"{dotted}.")
        elif left != right:
            found[dotted] = (left, right)
    return found


def _apply_override(values: dict[str, Any], text: str) -> None:
    key, sign, raw = text.partition("=")
    if not sign or not key.strip():
        raise UsageError(f"override {text!r} is not of the form key=value")
    value = parse_yaml(raw, f"the value of override {_short(text)}")
    *sections, last = key.strip().split(".")
    place = values
    for index, section in enumerate(sections):
        inner = place.setdefault(section, {})
        if inner is None:
            inner = place[section] = {}
        if not isinstance(inner, dict):
            raise UsageError(f"override {text!r}: {'.'.join(sections[: index + 1])} is a value, not a section")
        place = inner
    place[last] = value


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    """All problems in one line, a sentence each; unknown keys first, since they often cause the others."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    sentences: dict[tuple[int | str, ...], str] = {}
    for problem in problems:
        # of the ways in which a value fits none of several types, the first; of the same thing in every part, one
        place = _field_at(model, problem["loc"])
        if place not in sentences:
            sentences[place] = _sentence(problem, model)
    told = list(dict.fromkeys(sentences.values()))
    more = len(told) - MOST_PROBLEMS
    shown = told[:MOST_PROBLEMS] + ([f"{more} more"] if more > 0 else [])
    return shown[0] if len(shown) == 1 else "; ".join(f"({n}) {text}" for n, text in enumerate(shown, 1))


def _sentence(problem: Any, model: type[BaseModel]) -> str:
    dotted = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key {dotted}; {_hint(problem['loc'], model)}"
    if problem["type"] == "missing":
        return f"key {dotted} is missing"
    message = problem["msg"].removeprefix("Value error, ").rstrip(".")
    place = f"{dotted}: " if dotted else ""
    given = f" (given: {_short(problem['input'])})" if dotted else ""
    return f"{place}{message[:1].lower()}{message[1:]}{given}"


def _hint(location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    """What an unknown key may have meant: what others call a key, the same name elsewhere, one spelt nearly so."""
    key, above = str(location[-1]), location[:-1]
    told = getattr(model, "other_names", {}).get(key)
    if told is not None:
        return f"here it is {told}"
    elsewhere = [path for path in _paths(model) if path.rpartition(".")[2] == key]
    if elsewhere:
        return f"did you mean {' or '.join(elsewhere[:4])}?"
    names = _keys_at(model, above)
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    if not close:
        far = difflib.get_close_matches(key, [path.rpartition(".")[2] for path in _paths(model)], n=1, cutoff=0.75)
        elsewhere = [path for path in _paths(model) if far and path.rpartition(".")[2] == far[0]]
        if elsewhere:
            return f"did you mean {' or '.join(elsewhere[:4])}?"
        close = difflib.get_close_matches(key, names, n=1, cutoff=0.4)
    near = ".".join(str(part) for part in (*above, *close))
    return f"did you mean {near}?" if close else f"known keys here: {', '.join(names)}"


def _paths(model: type[BaseModel], prefix: str = "", depth: int = 4) -> list[str]:
    """Dotted keys of all sections of a configuration."""
    found = []
    for name, field in model.model_fields.items():
        found.append(f"{prefix}{name}")
        for inner in _classes_in(field.annotation) if depth else ():
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                found += _paths(inner, f"{prefix}{name}.", depth - 1)
    return list(dict.fromkeys(found))


def _field_at(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """A location without the tags of a union that follow the last field or index in it."""
    end = 0
    for number, part in enumerate(location):
        if isinstance(part, int) or part in _keys_at(model, location[:number]):
            end = number + 1
    return location if end == 0 else location[:end]


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the section at ``location``, walking through Optional, unions, lists and mappings."""
    candidates: list[Any] = [model]
    for part in location:
        following: list[Any] = []
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, BaseModel) and part in candidate.model_fields:
                following += _classes_in(candidate.model_fields[str(part)].annotation)
        # A part that is no field is a list index, a mapping key or the tag of a union: the classes stay the same.
        candidates = following or candidates
    return sorted(
        {
            name
            for candidate in candidates
            if isinstance(candidate, type) and issubclass(candidate, BaseModel)
            for name in (*candidate.model_fields, *getattr(candidate, "keys_beside", ()))
        }
    )


def _classes_in(annotation: Any) -> list[Any]:
    origin = typing.get_origin(annotation)
    if origin is None:
        return [annotation]
    if origin in (typing.Union, types.UnionType, list, tuple, dict) or typing.get_args(annotation):
        return [inner for argument in typing.get_args(annotation) for inner in _classes_in(argument)]
    return []


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
