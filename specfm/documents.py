"""The one place where JSON and YAML are parsed: whatever is wrong with a document ends in one sentence.

Bounded before it is believed (:mod:`specfm.limits`): size, nesting, and in YAML the number of values that aliases
multiply. Messages say where a document is wrong and never quote it: a path may name a file that is none of ours.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from specfm.errors import UsageError
from specfm.limits import excess


class DocumentError(UsageError, ValueError):
    """Text that is no JSON or YAML, or more of it than is read."""


def read_json(path: Path | str) -> Any:
    """Parse a JSON file; see :func:`parse_json`.

    Raises:
        OSError: it cannot be read.
        DocumentError: it is not plain JSON.
    """
    path = Path(path)
    _refuse_size("json_bytes", path.stat().st_size, path)
    return parse_json(path.read_bytes(), path)


def parse_json(data: bytes | str, where: Path | str) -> Any:
    """Parse JSON.

    Args:
        data: the text.
        where: the file it stands in, for messages.

    Raises:
        DocumentError: not JSON, too long, nested too deep, or with half a surrogate pair, which no file can hold.
    """
    _refuse_size("json_bytes", len(data), where)
    try:
        value = json.loads(data)
        if b"\\ud" in data.lower() if isinstance(data, bytes) else "\\ud" in data.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise _too_deep(where) from None
    except json.JSONDecodeError as error:
        raise DocumentError(f"{where}: not JSON ({error.msg}, line {error.lineno} column {error.colno})") from None
    except UnicodeEncodeError:
        raise DocumentError(f"{where}: not JSON that can be written (half a surrogate pair)") from None
    except UnicodeDecodeError as error:
        raise DocumentError(f"{where}: not JSON (no UTF-8 at byte {error.start})") from None
    except ValueError:  # a whole number of thousands of digits
        raise DocumentError(f"{where}: not JSON (a number too long)") from None
    _refuse_depth(value, where)
    return value


def parse_yaml(text: str, where: Path | str) -> Any:
    """Parse YAML of plain values; a key that is given twice is refused.

    Args:
        text: the text.
        where: the file it stands in, for messages.

    Raises:
        DocumentError: not plain YAML, too long, nested too deep, multiplied by aliases, or a doubled key.
    """
    import yaml

    _refuse_size("yaml_bytes", len(text), where)
    try:
        _refuse_growth(text, where)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_doubles(node, where, "")
        return None if node is None else _construct(node)
    except RecursionError:
        raise _too_deep(where) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1} column {mark.column + 1}: " if mark else ""
        problem = re.sub(r"alias '.*'", "alias", str(error.problem or error.context))
        raise DocumentError(f"{where} is not plain YAML ({place}{problem})") from None
    except yaml.reader.ReaderError as error:
        raise DocumentError(f"{where} is not plain YAML (position {error.position}: {error.reason})") from None
    except DocumentError:
        raise
    except Exception as error:  # what PyYAML's constructors raise of a value that looks like a number or a date
        reason = str(error) if type(error) is ValueError and len(str(error)) < 60 else "a value that cannot be read"
        raise DocumentError(f"{where} is not plain YAML ({reason})") from None


def _construct(node: Any) -> Any:
    import yaml

    loader = yaml.SafeLoader("")
    try:
        value = loader.construct_document(node)
    finally:
        loader.dispose()
    _refuse_halves(value)
    return value


def _refuse_halves(value: Any) -> None:
    """Half a surrogate pair is text that can be neither written nor printed."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("half a surrogate pair") from None
    elif isinstance(value, dict):
        for key, each in value.items():
            _refuse_halves(key)
            _refuse_halves(each)
    elif isinstance(value, list | tuple | set):
        for each in value:
            _refuse_halves(each)


def _refuse_growth(text: str, where: Path | str) -> None:
    """Walk the events of a YAML text: how deep they nest, and how many values they are with every alias resolved."""
    import yaml

    open_names: list[str | None] = []
    counts = [0]
    sizes: dict[str, int] = {}
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_names.append(event.anchor)
            counts.append(1)
            if words := excess("nesting", len(open_names)):
                raise _too_deep(where, words)
        elif isinstance(event, yaml.CollectionEndEvent):
            size, name = counts.pop(), open_names.pop()
            counts[-1] += size
            if name is not None:
                sizes[name] = size
        elif isinstance(event, yaml.ScalarEvent):
            counts[-1] += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in open_names:
                raise DocumentError(f"{where} is not plain YAML (an alias stands inside what it names)")
            counts[-1] += sizes.get(str(event.anchor), 1)
        if words := excess("yaml_nodes", sum(counts)):
            raise DocumentError(f"{where} holds too many values, aliases resolved; {words}")


def _refuse_doubles(node: Any, where: Path | str, prefix: str) -> None:
    import yaml

    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else "a key"
            if name in seen and isinstance(key, yaml.ScalarNode) and name != "<<":
                raise DocumentError(f"{where}: {prefix}{name} is given twice (line {key.start_mark.line + 1})")
            seen.add(name)
            _refuse_doubles(value, where, f"{prefix}{name}.")
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _refuse_doubles(value, where, f"{prefix}{index}.")


def _refuse_size(name: str, size: int, where: Path | str) -> None:
    if words := excess(name, size):
        raise DocumentError(f"{where} has {size} bytes; {words}")


def _refuse_depth(value: Any, where: Path | str) -> None:
    """Later code walks a document by recursion, so what nests deeper than anything of ours stops here."""
    level, depth = [value], 0
    while level:
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        depth += 1
        if words := excess("nesting", depth):
            raise _too_deep(where, words)


def _too_deep(where: Path | str, words: str = "") -> DocumentError:
    return DocumentError(f"{where} is nested too deep{'; ' if words else ''}{words}")
