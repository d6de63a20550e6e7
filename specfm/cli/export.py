"""`specfm export`: an encoder or a task model as one file that ONNX Runtime or torch alone runs."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specfm.cli import _options as options
from specfm.cli._function import function, printed
from specfm.cli._results import Exported

if TYPE_CHECKING:
    from specfm.sensors import Sensor

log = logging.getLogger(__name__)


@function
def export(
    model: Annotated[
        str, typer.Argument(help="Folder of an encoder or a task model, its run, or a name."), options.OR_ENCODER
    ],
    out: Annotated[Path, typer.Option("--out", help="FILE.onnx or FILE.pt2.")],
    format: Annotated[str | None, typer.Option("--format", help="onnx or pt2.", show_default="by the suffix")] = None,
    sensor: Annotated[
        str | None,
        typer.Option(
            help="Whose bands are baked in: a scene (a file that tells its bands, CARD or CARD:SCENE), scale and "
            "quantity included, or a known sensor (see specfm sensors), of values as measured. Without it bands are "
            "inputs of the file, which then takes any sensor and more time.",
            show_default=False,
        ),
        options.OR_SENSOR,
    ] = None,
    sensor_after: Annotated[
        str | None,
        typer.Option(help="Change model: the same of the second date.", show_default="that of the first"),
        options.OR_SENSOR,
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Weights of matrix products as 8-bit integers (ONNX): a quarter of the size.")
    ] = False,
    calibrate: Annotated[
        str | None,
        typer.Option(
            help="With --int8: a scene whose tiles say how large activations get, so that they become integers of "
            "fixed scale (static), in convolutions too.",
            show_default=False,
        ),
    ] = None,
    calibration: Annotated[
        str, typer.Option(help="With --calibrate: minmax, percentile or mse, which sets the range of each activation.")
    ] = "percentile",
    weight_bits: Annotated[
        int | None,
        typer.Option(help="8 or 4: only weights become integers, in blocks of 32 (ONNX).", show_default=False),
    ] = None,
    content_free: Annotated[
        list[str] | None,
        typer.Option(
            help="Scenes of --sensor (repeat it): on their pixels the model is first taught to do without the branch "
            "that looks at content, so that the bands leave one matrix; what that costs is told.",
            show_default=False,
        ),
    ] = None,
    content_free_steps: Annotated[int, typer.Option(min=1, help="With --content-free: steps of learning.")] = 300,
    tile: Annotated[
        int,
        typer.Option(
            min=0,
            help="Encoder: side of its input, pixels; 0 = 8 patches, or the only size it reads. A model keeps its own.",
        ),
    ] = 0,
    level: Annotated[
        str | None,
        typer.Option(help="Encoder: scene (its brightness level is an input) or sample.", show_default="scene"),
    ] = None,
    overwrite: options.Overwrite = False,
) -> Exported:
    """Write MODEL as one file for one sensor: what follows from its bands alone is worked out; then check the file."""
    from specfm import __version__
    from specfm.checkpoint import TASK, find_release, release_digest
    from specfm.deploy.facts import outside
    from specfm.deploy.graph import format_of
    from specfm.errors import UsageError
    from specfm.files import read_manifest, refuse_existing

    form = format_of(out, format)
    integers = _integers(form, int8, calibrate, weight_bits)
    refuse_existing(out, overwrite)
    is_task = read_manifest(find_release(model)).get("kind") == TASK
    told = (release_digest(model), __version__)
    if content_free and sensor is None:
        raise UsageError("--content-free is for the bands of one sensor; name it with --sensor, or leave it out")
    make, taught = (_task if is_task else _encoder), (content_free or [], content_free_steps)
    graph, example, outputs, facts = make(model, sensor, sensor_after, tile, level, told, taught)
    if said := outside(facts.sensors, facts.trained_nm):
        log.warning("%s", said)
    from specfm.deploy.write import write

    samples = None if calibrate is None else _samples(calibrate, model, is_task, facts)
    asked: Any = calibration
    off = write(
        graph, example, outputs, out, facts, form=form, integers=integers, samples=samples, calibration=asked,
        overwrite=overwrite,
    )  # fmt: skip
    return Exported(out, facts, off)


@printed(export)
def command(found: Exported) -> None:
    """Say what was written, and how well it agrees."""
    facts = found.facts
    bands = " and ".join(f"{len(each.bands)} bands" for each in facts.sensors) or "any bands"
    typer.echo(f"{found.path}: {facts.kind}, {bands}, tiles of {facts.tile} pixels, {found.size / 1e6:.2f} MB")
    typer.echo(f"  differs from the model by {found.difference:.1e} of its largest output")
    if told := facts.student:
        typer.echo(
            f"  without content, after {told['steps']} steps, on parts of the scenes not learnt from: tokens "
            f"are off by {told['error']:.1%} ({told['error_dropped']:.1%} before), cosine {told['cosine']:.4f}"
        )
        if "agreement" in told:
            typer.echo(
                f"  {told['agreement']:.1%} of their pixels have the same class; the probability of the model's class "
                f"changes by {100 * told['confidence']:+.1f} points"
            )


def _integers(form: str, int8: bool, calibrate: str | None, weight_bits: int | None) -> Any:
    """What becomes of the weights; None: they stay as they are."""
    from specfm.errors import UsageError

    if weight_bits not in (None, 8, 4):
        raise UsageError(f"--weight-bits is {weight_bits}; give 8 or 4")
    if weight_bits and (int8 or calibrate is not None):
        raise UsageError("--weight-bits is another way than --int8, with or without --calibrate; leave one out")
    if calibrate is not None and not int8:
        raise UsageError("--calibrate is for --int8; give both, or leave it out")
    if (int8 or weight_bits) and form != "onnx":
        said = "--int8" if int8 else "--weight-bits"
        raise UsageError(f"{said} is for ONNX Runtime, not for {form}; leave it out or choose --format onnx")
    if weight_bits:
        return f"weights{weight_bits}"
    return None if not int8 else "dynamic" if calibrate is None else "static"


def _samples(name: str, model: str, is_task: bool, facts: Any) -> Any:
    from downstream.maps.class_maps import as_taught
    from specfm.cards.opening import open_scene
    from specfm.deploy.samples import samples_of

    scene = open_scene(name)
    return samples_of(as_taught(scene, facts.taught) if is_task else scene, facts, model)


def _student(
    model: Any, name: str, taught: tuple[list[str], int], sensor: Sensor | None, tile: int, level: str,
    card: dict[str, Any],
) -> tuple[Any, dict[str, float]]:  # fmt: skip
    """A model that was taught on scenes, in so many steps, to do without content, and what that cost; else the same."""
    from downstream.compress.content_free import content_free
    from downstream.maps.class_maps import as_taught
    from specfm.cards.opening import open_scene
    from specfm.deploy.facts import fitting

    if not taught[0]:
        return model, {}
    scenes = [as_taught(open_scene(each), card) for each in taught[0]]
    for scene in scenes:
        fitting(scene, sensor, name)
    return content_free(model, scenes, tile, level=level, steps=taught[1])


def _encoder(
    model: str, sensor: str | None, sensor_after: str | None, tile: int, level: str | None, told: tuple[str, str],
    taught: tuple[list[str], int],
) -> tuple[Any, Any, Any, Any]:  # fmt: skip
    from specfm.checkpoint import load
    from specfm.dense.tile_reader import WINDOW_PATCHES
    from specfm.deploy.encoder import OUTPUTS, encoder_facts, encoder_graph
    from specfm.errors import UsageError
    from specfm.models.one_size import fixed_side, refuse_other_side

    if sensor_after is not None:
        raise UsageError(f"--sensor-after is for change models, and {model} is an encoder; leave it out")
    level = "scene" if level is None else level
    if level not in ("scene", "sample"):
        raise UsageError(f"--level is {level!r}; give scene or sample")
    encoder = load(model)
    patch = encoder.patch_size
    tile = tile or fixed_side(encoder) or WINDOW_PATCHES * patch
    if tile % patch:
        raise UsageError(f"--tile {tile} is not a multiple of the encoder's patch of {patch} pixels")
    refuse_other_side(encoder, tile, "--tile")
    level = "none" if encoder.level == "none" else level
    seen = _sensor(sensor, encoder, model)
    encoder, cost = _student(encoder, model, taught, seen, tile, level, {})
    graph, example = encoder_graph(encoder, seen, tile, level == "scene")
    return graph, example, OUTPUTS, replace(encoder_facts(encoder, seen, tile, level, *told), student=cost)


def _task(
    model: str, sensor: str | None, sensor_after: str | None, tile: int, level: str | None, told: tuple[str, str],
    taught: tuple[list[str], int],
) -> tuple[Any, Any, Any, Any]:  # fmt: skip
    from downstream.deploy.task import OUTPUTS, task_facts, task_graph, taught_sensor
    from downstream.supervised.folder import load_task
    from specfm.errors import UsageError

    loaded = load_task(model)
    if tile not in (0, loaded.tile):
        raise UsageError(f"--tile {tile}: {model} was trained on tiles of {loaded.tile} pixels; leave it out")
    if level not in (None, loaded.level):
        raise UsageError(f"--level {level}: {model} was trained with level {loaded.level}; leave it out")
    if sensor_after is not None and loaded.task != "change":
        raise UsageError(f"--sensor-after is for change models, and {model} is for {loaded.task}; leave it out")
    if sensor_after is not None and sensor is None:
        raise UsageError("--sensor-after is the second of two sensors; name the first with --sensor")
    names = [sensor] if loaded.task != "change" else [sensor, sensor_after or sensor]
    seen = [each and taught_sensor(each, loaded.card) for each in (_sensor(n, loaded.encoder, model) for n in names)]
    by = "none" if loaded.encoder.level == "none" else loaded.level
    loaded, cost = _student(loaded, model, taught, seen[0], loaded.tile, by, loaded.card)
    graph, example = task_graph(loaded, seen)
    return graph, example, OUTPUTS, replace(task_facts(loaded, seen, *told), student=cost)


def _sensor(name: str | None, encoder: Any, model: str) -> Sensor | None:
    """The sensor meant: of a scene, a known one, or the one that a backbone was built for; None: any."""
    from specfm.cards.opening import open_sensor
    from specfm.deploy.free import require_free
    from specfm.models.backbone import Backbone
    from specfm.sensors import Sensor

    if name is None:
        if isinstance(encoder, Backbone):
            return Sensor(encoder.bands)
        require_free(encoder, model)
        return None
    return open_sensor(name, "--sensor")
