"""The page of all commands, made of what the command line itself knows; and which functions of Python they are."""

from __future__ import annotations

import re
from typing import Any

from prose import escaped

import specfm
from specfm import cli


def page() -> str:
    """Markdown: every command with its arguments and options."""
    group = cli.LazyGroup()
    parts = [
        "# Commands",
        "Each command explains itself with `--help`; this page says the same. Before any command stand `--debug` (the "
        "traceback of an error), `--linked-files` (data files may read other files) and `--untrusted` (a dataset card "
        "that came from elsewhere stays within its folder). Where a function is named, Python takes every option as a "
        "keyword, `--max-per-class 20` as `max_per_class=20`.",
    ]
    for name in cli.COMMANDS:
        command = group.get_command(None, name)
        parts += [f"## specfm {name}", _face(name, command), _words(command.help or ""), _table(command.params)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _face(name: str, command: Any) -> str:
    given = [each for each in command.params if each.param_type_name == "argument"]
    words = [_name(each) if each.required else f"[{_name(each)}]" for each in given]
    python = f"\n\nPython: `specfm.{name}(...)`" if name in specfm.__all__ else ""
    return f"```text\n{' '.join(['specfm', name, *words, '[OPTIONS]'])}\n```{python}"


def _name(argument: Any) -> str:
    name = str(argument.metavar or argument.name).upper().strip("[].")
    return name + ("..." if argument.nargs == -1 else "")


def _words(text: str) -> str:
    return escaped(re.sub(r"\n{3,}", "\n\n", text.replace("\b", "")).strip())


def _table(params: list[Any]) -> str:
    rows = ["| option | default | what it does |", "|---|---|---|"]
    for each in params:
        if each.name == "help" or getattr(each, "hidden", False):
            continue
        names = " ".join(f"`{flag}`" for flag in [*each.opts, *each.secondary_opts])
        if each.param_type_name == "argument":
            names = f"`{_name(each)}`"
        shown = getattr(each, "show_default", None)
        default = shown if isinstance(shown, str) else each.default
        told = "" if callable(default) or any(default is each for each in (None, False)) else f"`{default}`"
        cells = (names, "must be given" if each.required else told, escaped(" ".join((each.help or "").split())))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) if len(rows) > 2 else ""
