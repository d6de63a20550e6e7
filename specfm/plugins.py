"""Readers, embeddings and objectives of other packages, found by their entry points.

A package says in its ``pyproject.toml`` what it brings::

    [project.entry-points."specfm.readers"]
    cu3 = "my_package.cu3"                  # sniff(path, start) -> bool and read(path) -> specfm.readers.found.Found
    [project.entry-points."specfm.embeddings"]
    wavelets = "my_package.wavelets:Wavelets"    # nn.Module: (dim, patch_size, **options); Patches -> tokens_BND
    [project.entry-points."specfm.objectives"]
    barlow = "my_package.barlow:Barlow"     # pretrain.objectives.base.Objective with its Settings, a Strict

and once it is installed these are used by name:

* a reader is asked about files that specfm itself does not know: ``start`` is the first 1,024 bytes;
* an embedding is ``create_encoder(embedding="wavelets")`` or ``model.embedding=wavelets``, saved and loaded with the
  encoder's options;
* an objective is a term of a pretraining: ``objective.plugins.barlow.weight=1``.

Nothing of a package is imported before it is needed. What specfm has itself cannot be replaced by another package.
What goes wrong in one is an error that names the package.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from specfm.errors import SpecfmError, UsageError

GROUPS = ("specfm.readers", "specfm.embeddings", "specfm.objectives")


class PluginError(SpecfmError):
    """A package that specfm was to use does not do what it should."""


@dataclass(frozen=True)
class Plugin:
    """One entry point."""

    entry: EntryPoint

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def package(self) -> str:
        """Distribution that brings it, with its version."""
        held = self.entry.dist
        return "an unnamed package" if held is None else f"{held.name} {held.version}"

    def load(self) -> Any:
        """What the entry point names.

        Raises:
            PluginError: it cannot be imported.
        """
        try:
            return self.entry.load()
        except Exception as error:  # whatever the package does when it is imported
            raise self.failed(f"cannot be loaded from {self.entry.value} ({type(error).__name__}: {error})") from error

    def failed(self, what: str) -> PluginError:
        """The error that says so."""
        kind = self.entry.group.removeprefix("specfm.").removesuffix("s")
        return PluginError(f"{kind} {self.name!r} of {self.package} {what}; update that package or uninstall it")


def plugins(group: str) -> dict[str, Plugin]:
    """What installed packages bring, by name; nothing is imported.

    Args:
        group: one of :data:`GROUPS`.

    Raises:
        PluginError: two packages bring something of one name.
    """
    assert group in GROUPS, group
    found: dict[str, Plugin] = {}
    for entry in entry_points(group=group):
        new, old = Plugin(entry), found.get(entry.name)
        if old is not None and old.entry.value != entry.value:
            raise new.failed(f"is also brought by {old.package}")
        found[entry.name] = new
    return dict(sorted(found.items()))


def plugin(group: str, name: str, own: tuple[str, ...]) -> Plugin:
    """The one of that name.

    Args:
        group: one of :data:`GROUPS`.
        name: of the entry point.
        own: names that specfm itself has, for the error.

    Raises:
        UsageError: no package brings it.
    """
    held = plugins(group)
    if name not in held:
        kind = group.removeprefix("specfm.").removesuffix("s")
        known = ", ".join([*own, *held]) or "none is installed"
        raise UsageError(f"unknown {kind} {name!r}; choose one of {known}, or install the package that brings it")
    return held[name]
