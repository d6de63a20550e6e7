"""Who may import whom, where heavy packages may be imported, and what is never used: read from the source by AST."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import specfm

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("specfm", "downstream", "pretrain")

# Rooms of the library from the ground up. A module imports from its own level and from those below it.
LEVELS: tuple[tuple[str, ...], ...] = (
    (
        "errors",
        "brief",
        "bands",
        "sensors",
        "sensor_table",
        "config",
        "counter",
        "crs",
        "digests",
        "documents",
        "files",
        "hdf5",
        "limits",
        "locks",
        "progress",
        "plugins",
        "rows",
        "tables",
        "tiles",
        "whiten_recipe",
    ),
    (
        "scene",
        "batch",
        "library",
        "calibration",
        "pretreatment",
        "grids",
        "window",
        "band_selection",
        "selected_scene",
        "objects",
        "specimens",
        "reducers",
    ),
    ("readers", "shards", "simulate", "cards", "rasters", "inspection"),
    ("models", "dense"),  # Encoder.embed is dense.memory.embed_scene
    ("model_card",),
    ("release",),
    ("checkpoint", "deploy"),
    ("hub",),
    ("convert",),
    ("engine",),
    ("doctor",),
    ("cli", "__main__"),
)
# Rooms of the two applications, floor by floor. A room uses those of lower floors, never one beside or above it.
ROOMS: dict[str, tuple[tuple[str, ...], ...]] = {
    "downstream": (
        ("splits",),
        ("features",),
        ("results",),
        ("supervised",),
        ("protocols",),
        ("baselines",),
        ("probe", "tasks"),
        ("robustness", "benchmark", "maps"),
        ("report", "deploy"),
        ("explain", "compress", "relate"),
    ),
    "pretrain": (
        ("rng", "summary"),
        ("sampler", "views"),
        ("pairs",),
        ("objectives", "loader", "whiten", "stems", "curriculum"),
        ("config",),  # put together from the settings that stand with views and objectives
        ("backbone",),
        ("setup", "release", "monitor", "state", "step", "windows", "lab_scans"),
        ("loop",),
        ("demo", "launch", "multidomain", "planning", "__main__"),
    ),
}
LEVEL_OF = {name: level for level, names in enumerate(LEVELS) for name in names}
STORES = {"readers", "shards"}  # never imported by models, and never import them

HEAVY = {
    "torch", "torchvision", "timm", "lightly", "sklearn", "matplotlib", "wandb", "rasterio", "rioxarray", "h5py",
    "hdf5plugin", "captum", "scipy", "spectral", "xarray", "pandas", "pvlib", "jinja2", "PIL",
    "dask", "distributed", "fsspec",
}  # fmt: skip
# Where a heavy package is what the module is about, and may be imported at its top.
AT_TOP = {
    "torch": (
        "specfm.batch",
        "specfm.reducers",
        "specfm.models",
        "specfm.dense.fit",
        "specfm.dense.fit_tokens",
        "specfm.dense.given",
        "specfm.dense.memory",
        "specfm.dense.survey",
        "specfm.dense.tile_encoder",
        "specfm.deploy.bake",
        "specfm.deploy.encoder",
        "specfm.deploy.free",
        "specfm.deploy.graph",
        "specfm.deploy.write",
        "specfm.checkpoint",
        "specfm.engine",
        "downstream",
        "pretrain",
    ),
    "timm": ("specfm.models", "specfm.engine"),
    "lightly": ("pretrain.objectives",),
}
DISTRIBUTED = ("specfm.engine", "pretrain.objectives")


@dataclass(frozen=True)
class Import:
    """One imported name as seen from ``module``; ``at_top`` = runs when the module is imported."""

    module: str
    target: str
    line: int
    at_top: bool

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> dict[str, ast.Module]:
    files = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {module_name(path): ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in files}


def only_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports_in(module: str, is_package: bool, tree: ast.AST, at_top: bool = True) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, node.lineno, at_top)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                keep = len(parents) - node.level + (1 if is_package else 0)
                base = ".".join([*parents[:keep], *([base] if base else [])])
            for alias in node.names:
                yield Import(module, f"{base}.{alias.name}", node.lineno, at_top)
        else:
            function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports_in(module, is_package, node, at_top and not function and not only_for_types(node))


def real(found: Import) -> Import:
    """A public name imported from the face of the library, as imported from the module that it comes from."""
    package, _, name = found.target.partition(".")
    home = specfm._PUBLIC.get(name) if package == "specfm" else None
    return found if home is None else replace(found, target=f"{home}.{name}")


SOURCES = sources()
IMPORTS = [
    real(found)
    for module, tree in SOURCES.items()
    for found in imports_in(module, (ROOT / Path(*module.split(".")) / "__init__.py").exists(), tree)
]


def inside(name: str, rooms: tuple[str, ...]) -> bool:
    return any(name == room or name.startswith(room + ".") for room in rooms)


def room(name: str) -> str:
    """``specfm.readers.envi`` -> ``readers``; the face ``specfm`` itself -> ``""``."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def report(bad: list[Import]) -> str:
    return "\n".join(str(found) for found in bad)


def test_packages_point_one_way() -> None:
    bad = []
    for found in IMPORTS:
        importer, imported = found.module.split(".")[0], found.target.split(".")[0]
        if imported not in PACKAGES or PACKAGES.index(imported) <= PACKAGES.index(importer):
            continue
        options = found.target.split(".")[2:3] == ["options"] or ".options." in found.target
        if found.module.startswith("specfm.cli.") and (options or not found.at_top):
            continue  # a subcommand reaches what it runs, inside its function, and defaults of options where they stand
        bad.append(found)
    assert not bad, "specfm <- downstream <- pretrain, never the other way:\n" + report(bad)


def test_every_module_of_the_library_has_a_level() -> None:
    unplaced = sorted({room(name) for name in SOURCES if name.startswith("specfm.")} - set(LEVEL_OF))
    assert not unplaced, f"place {unplaced} in LEVELS (and in the README's folder tree)"


def test_levels_inside_the_library() -> None:
    bad = []
    for found in IMPORTS:
        if not found.module.startswith("specfm.") or not found.target.startswith("specfm."):
            continue
        importer, imported = room(found.module), room(found.target)
        if imported in LEVEL_OF and LEVEL_OF[imported] > LEVEL_OF.get(importer, 0):
            bad.append(found)
    assert not bad, "imports from a level above:\n" + report(bad)


def home(target: str) -> str:
    """The file of this repository that an imported name comes from; empty for other packages."""
    while target and target not in SOURCES:
        target = target.rpartition(".")[0]
    return target


GRAPH: dict[str, dict[str, Import]] = {module: {} for module in SOURCES}
for each in IMPORTS:
    if home(each.target) not in ("", each.module):
        GRAPH[each.module].setdefault(home(each.target), each)


def circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """The names along one round in a graph, empty without any."""
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_file_imports_itself_in_a_round() -> None:
    """Imports inside functions and under TYPE_CHECKING count: a reader has to follow them all the same."""
    found = circle(GRAPH)
    assert not found, "these import each other in a round: " + " -> ".join(reversed(found))


def test_the_search_for_circles_finds_one() -> None:
    assert circle({"a": ["b"], "b": ["c"], "c": []}) == []
    assert set(circle({"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a"]})) == {"a", "b", "c"}


@pytest.mark.parametrize("package", list(ROOMS))
def test_rooms_are_used_from_above(package: str) -> None:
    floor_of = {name: floor for floor, names in enumerate(ROOMS[package]) for name in names}
    unplaced = {room(name) for name in SOURCES if name.startswith(f"{package}.")} - set(floor_of)
    assert not unplaced, f"place {sorted(unplaced)} in ROOMS"
    bad = []
    for found in IMPORTS:
        there = home(found.target)
        if not (found.module.startswith(f"{package}.") and there.startswith(f"{package}.")):
            continue
        mine, other = room(found.module), room(there)
        if mine != other and floor_of[other] >= floor_of[mine]:
            bad.append(found)
    assert not bad, f"a room of {package}/ uses rooms of lower floors only:\n" + report(bad)


def test_the_library_does_not_reach_through_its_own_face() -> None:
    """``import specfm`` inside it would hide what is used (``specfm.load``) from the tests here."""
    bad = [f for f in IMPORTS if f.module.startswith("specfm.") and f.target == "specfm"]
    assert not bad, "import the module that is meant:\n" + report(bad)


def test_public_names_are_traced_to_their_modules() -> None:
    tree = ast.parse("def f():\n    from specfm import BandGrid, read_scene, readers, __version__")
    found = [real(each) for each in imports_in("specfm.models.x", False, tree)]
    assert [each.target for each in found] == [
        "specfm.bands.BandGrid", "specfm.readers.read_scene", "specfm.readers", "specfm.__version__",
    ]  # fmt: skip
    assert [room(each.target) in STORES for each in found] == [False, True, True, False]


def test_models_and_stores_do_not_know_each_other() -> None:
    bad = [
        found
        for found in IMPORTS
        if found.target.startswith("specfm.") and found.module.startswith("specfm.")
        if (room(found.module) == "models" and room(found.target) in STORES)
        or (room(found.module) in STORES and room(found.target) == "models")
    ]
    assert not bad, report(bad)


def test_heavy_packages_are_imported_where_they_are_used() -> None:
    bad = []
    for found in IMPORTS:
        package = found.target.split(".")[0]
        if found.at_top and package in HEAVY and not inside(found.module, AT_TOP.get(package, ())):
            bad.append(found)
    assert not bad, "import these inside the function that needs them:\n" + report(bad)


def test_subcommands_import_the_library_inside_their_function() -> None:
    allowed = ("specfm.errors", "specfm.brief", "specfm.rows", "specfm.cli")  # of the standard library alone
    bad = [
        found
        for found in IMPORTS
        if found.module.startswith("specfm.cli") and found.at_top
        if found.target.split(".")[0] in PACKAGES and not inside(found.target, allowed)
        if ".options." not in found.target  # light, and where each default stands
    ]
    assert not bad, report(bad)


def test_process_groups_stay_in_their_rooms() -> None:
    bad = [f for f in IMPORTS if inside(f.target, ("torch.distributed",)) and not inside(f.module, DISTRIBUTED)]
    assert not bad, "torch.distributed belongs in " + ", ".join(DISTRIBUTED) + ":\n" + report(bad)
    used = [
        f"{module}:{node.lineno}"
        for module, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.distributed"
        if not inside(module, DISTRIBUTED)
    ]
    assert not used, used


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def unsafe(tree: ast.AST) -> list[str]:
    """Ways to run code that a file brings along, as ``line: what``."""
    found = []
    for name, node in calls(tree):
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        trusting = keywords.get("allow_pickle")
        if name in ("torch.load", "torch.save", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"):
            found.append(f"{node.lineno}: {name}")
        elif trusting is not None and not (isinstance(trusting, ast.Constant) and trusting.value is False):
            found.append(f"{node.lineno}: allow_pickle")
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        banned = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
        found += [f"{node.lineno}: {name}" for name in names if name.split(".")[0] in banned]
    return found


def test_nothing_that_runs_code_from_a_file() -> None:
    bad = {module: unsafe(tree) for module, tree in SOURCES.items() if unsafe(tree)}
    assert not bad, bad


@pytest.mark.parametrize(
    "line",
    ["torch.load('x')", "import pickle", "from joblib import load", "yaml.load(f)", "np.load(f, allow_pickle=True)"],
)
def test_the_rule_finds_what_it_forbids(line: str) -> None:
    assert unsafe(ast.parse(line))


def maps_written(tree: ast.Module) -> list[str]:
    """Memory maps that may be written: a disk that fills up under one ends the process without a word (SIGBUS)."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).split(".")[-1]
            modes = [ast.unparse(k.value) for k in node.keywords if k.arg in ("mode", "mmap_mode")]
            if name in ("memmap", "open_memmap", "mmap") and modes != ["'r'"]:
                found.append(f"{node.lineno}: {name}")
            found += [f"{node.lineno}: {mode}" for mode in modes if mode in ("'r+'", "'w+'") and name == "load"]
    return found


def test_no_memory_map_is_written() -> None:
    bad = {module: maps_written(tree) for module, tree in SOURCES.items() if maps_written(tree)}
    assert not bad, bad
    for line in ("np.lib.format.open_memmap(p, 'w+')", "np.memmap(p, mode='r+')", "np.load(p, mmap_mode='r+')"):
        assert maps_written(ast.parse(line))
    assert not maps_written(ast.parse("np.memmap(p, mode='r'); np.load(p, mmap_mode='r'); np.load(p)"))


def test_the_walk_sees_functions_and_relative_imports() -> None:
    tree = ast.parse("from . import b\ndef f():\n    import h5py\nif TYPE_CHECKING:\n    import torch\n")
    found = {(f.target, f.at_top) for f in imports_in("specfm.readers", True, tree)}
    assert found == {("specfm.readers.b", True), ("h5py", False), ("torch", False)}
