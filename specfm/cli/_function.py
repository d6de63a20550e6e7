"""One face for Python and the shell: ``specfm probe`` and ``specfm.probe`` are one function with one signature.

A subcommand's file holds two things. The function does the work: it returns what was found, raises what was wrong and
prints nothing on stdout; :func:`function` makes it the public ``specfm.NAME``. The command prints what the function
returned: :func:`printed` gives it the options, defaults and help of that function, so neither can have others. An
option that only says how to print (``--json``) is a parameter of the command.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import os
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from typer.models import ArgumentInfo, ParameterInfo

from specfm.errors import UsageError

R = TypeVar("R")
BY_POSITION, BY_NAME = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
LONGEST = 80  # characters of a value that an error quotes
CALLED = {int: "a whole number", float: "a number", bool: "True or False", str: "text", Path: "a path"}


@dataclass(frozen=True)
class OrObject:
    """Metadata of a parameter that takes text, and from Python also what the text would name.

    Attributes:
        called: its class, for the help.
        take: from a value to what the function gets for it, None where it is no such object; what has to be undone
            after the call goes on the stack.
        hint: what else can be done with values that are neither.
    """

    called: str
    take: Callable[[Any, ExitStack], Any]
    hint: str = ""


def parameters_of(work: Callable[..., Any], plain: tuple[str, ...] = ("return",)) -> list[inspect.Parameter]:
    """Its parameters with types in place of their text.

    Args:
        work: the function.
        plain: annotations that stay text: they may name classes that are imported for types only.
    """
    kept = {name: work.__annotations__.pop(name) for name in plain if name in work.__annotations__}
    try:
        return list(inspect.signature(work, eval_str=True).parameters.values())
    finally:
        work.__annotations__.update(kept)


def told_of(parameter: inspect.Parameter) -> ParameterInfo | None:
    """What the command line knows of a parameter: its help and its range."""
    found = (each for each in getattr(parameter.annotation, "__metadata__", ()) if isinstance(each, ParameterInfo))
    return next(found, None)


def function(work: Callable[..., R]) -> Callable[..., R]:
    """The public function: arguments of the command line by position or by name, its options by name.

    Values are what Python has: a path may be a string, a list of one thing that thing, and text that the command line
    divides by commas may be a list (``shots=[5, 10]``); ``key=value`` settings may be a dict; where text names an
    encoder or a scene, that object does (`OrObject`). Ranges are those of the command line. The docstring gets the help
    of every parameter.

    Raises:
        UsageError: a value of another kind, or out of range.
    """
    parameters = sorted(
        (
            each.replace(kind=BY_POSITION if isinstance(told_of(each), ArgumentInfo) else BY_NAME)
            for each in parameters_of(work)
        ),
        key=lambda each: (each.kind, each.kind == BY_POSITION and each.default is not each.empty),
    )
    signature = inspect.Signature(
        [each.replace(annotation=each.annotation.__origin__) for each in parameters],
        return_annotation=work.__annotations__["return"],
    )
    told = {each.name: each for each in parameters}

    @functools.wraps(work)
    def called(*args: Any, **words: Any) -> Any:
        try:
            bound = signature.bind(*args, **words).arguments
        except TypeError as error:
            wrong = next((word for word in words if word not in told), "")
            near = difflib.get_close_matches(wrong, told, n=1)
            raise TypeError(f"specfm.{work.__name__}: {error}{f'; did you mean {near[0]}?' if near else ''}") from None
        with ExitStack() as stack:
            given = {name: read(work.__name__, told[name], each, stack) for name, each in bound.items()}
            return work(**{name: each.default for name, each in told.items() if name not in given}, **given)

    called.__signature__ = signature  # type: ignore[attr-defined]
    called.options = parameters_of(work)  # type: ignore[attr-defined]
    called.__doc__ = "\n".join([inspect.getdoc(work) or "", "", "Args:", *map(_line, parameters)])
    return called


def printed(
    work: Callable[..., Any], around: Callable[[Mapping[str, Any]], AbstractContextManager[Any]] = nullcontext
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function that prints what ``work`` returned.

    Args:
        work: made by :func:`function`.
        around: entered while it works, with the values of all options: what a command sets up and a caller from Python
            has set up already.

    The function below takes the result, options of ``work`` that it has to know again, and options of its own.
    """

    def decorate(show: Callable[..., None]) -> Callable[..., None]:
        options = {each.name: each.replace(kind=BY_NAME) for each in work.options}  # type: ignore[attr-defined]
        first = next(iter(inspect.signature(show).parameters))
        asked = [each for each in parameters_of(show, (first, "return")) if each.name != first]
        own = {each.name: each.replace(kind=BY_NAME) for each in asked if each.name not in options}

        @functools.wraps(show)
        def command(**words: Any) -> None:
            with around(words):
                found = work(**{name: value for name, value in words.items() if name in options})
            show(found, **{each.name: words[each.name] for each in asked})

        signature = inspect.Signature([*options.values(), *own.values()])
        command.__signature__ = signature  # type: ignore[attr-defined]
        command.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
        command.__doc__ = inspect.getdoc(inspect.unwrap(work))
        return command

    return decorate


def read(who: str, parameter: inspect.Parameter, value: Any, stack: ExitStack | None = None) -> Any:
    """The value that the command line would have made of it, or an object that the function takes.

    Raises:
        UsageError: another kind of value, or one out of range; names function and parameter.
    """
    kind, several, optional = _kind(parameter.annotation)
    if value is None and optional:
        return None
    told = told_of(parameter)
    may_be = _object_of(parameter)

    def held(each: Any) -> Any:
        if may_be is None or isinstance(each, str | os.PathLike):
            return None
        return may_be.take(each, stack or ExitStack())

    def taken(each: Any) -> Any:
        object_ = held(each)
        return _one(f"{who}: {parameter.name}", kind, each, may_be) if object_ is None else object_

    whole = held(value) if several else None  # an object that can be walked over is one all the same
    found = [whole] if whole is not None else [taken(each) for each in (_listed(value) if several else [value])]
    low, high = getattr(told, "min", None), getattr(told, "max", None)
    for each in found:
        if (low is not None and each < low) or (high is not None and each > high):
            limits = f"at least {low:g}" if high is None else f"{low:g} to {high:g}"
            raise UsageError(f"{who}: {parameter.name} is {limits}, not {each!r}")
    return found if several else found[0]


def _kind(annotation: Any) -> tuple[type, bool, bool]:
    """The type of one value, whether there may be several, and whether there may be none."""
    plain = annotation.__origin__
    optional = False
    if typing.get_origin(plain) in (typing.Union, types.UnionType):
        inner = [each for each in typing.get_args(plain) if each is not type(None)]
        optional, plain = len(inner) < len(typing.get_args(plain)), inner[0]
    several = typing.get_origin(plain) is list
    return (typing.get_args(plain)[0] if several else plain), several, optional


def _listed(value: Any) -> list[Any]:
    """Several values; one alone, also a pair of numbers such as a pixel, is a list of it."""
    if isinstance(value, Mapping):
        return [f"{key}={_as_yaml(key, each)}" for key, each in value.items()]
    single = isinstance(value, str | os.PathLike) or not isinstance(value, Iterable)
    pair = isinstance(value, tuple) and len(value) == 2 and not any(isinstance(each, str | Iterable) for each in value)
    return [value] if single or pair else list(value)


def _as_yaml(key: str, value: Any) -> str:
    try:
        return json.dumps(value, default=os.fspath)
    except (TypeError, ValueError):
        raise UsageError(
            f"{key}: an object of class {type(value).__name__} stands in no configuration; give what YAML can hold, of "
            "an encoder the folder that specfm.save made"
        ) from None


def _object_of(parameter: inspect.Parameter) -> OrObject | None:
    return next((each for each in parameter.annotation.__metadata__ if isinstance(each, OrObject)), None)


def _one(what: str, kind: type, value: Any, may_be: OrObject | None = None) -> Any:
    shown = repr(value)
    if len(shown) > LONGEST:  # an encoder, an array: what it is says enough
        shown = f"{'an object' if may_be is None else 'one'} of class {type(value).__name__}"
    takes = CALLED[kind] if may_be is None else f"{CALLED[kind]} or an object of class {may_be.called}"
    wrong = UsageError(f"{what} takes {takes}, not {shown}{'' if may_be is None else may_be.hint}")
    if kind is bool:
        if type(value).__name__ in ("bool", "bool_"):
            return bool(value)
        raise wrong
    if kind is str:
        if isinstance(value, list | tuple):
            return ",".join(_one(what, str, each) for each in value)
        number = hasattr(value, "__float__") and not hasattr(value, "__len__") and not isinstance(value, bool)
        if isinstance(value, str | os.PathLike) or number:
            return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
        raise wrong
    try:
        if isinstance(value, bool) or (isinstance(value, str) and kind is not Path):
            raise TypeError
        return value.__index__() if kind is int else kind(value)
    except (AttributeError, TypeError, ValueError):
        raise wrong from None


def _line(parameter: inspect.Parameter) -> str:
    """``name (type): help``, as tools read it."""
    kind, several, optional = _kind(parameter.annotation)
    may_be = _object_of(parameter)
    called = kind.__name__ if may_be is None else f"{kind.__name__} or {may_be.called}"
    called = f"list of {called}" if several else called
    told, default = told_of(parameter), parameter.default
    text = f"{parameter.name} ({called}{', optional' if default is not parameter.empty else ''}): "
    text += " ".join((getattr(told, "help", None) or "").split())
    shown = getattr(told, "show_default", None)
    if isinstance(shown, str) or not any(default is each for each in (parameter.empty, None, False)):
        text += f" Default: {shown if isinstance(shown, str) else repr(default)}."
    return textwrap.fill(text, 110, initial_indent="    ", subsequent_indent="        ")
