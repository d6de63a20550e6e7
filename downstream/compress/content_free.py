"""A content-aware encoder or task model taught to do without content, so that its bands, once known, leave one matrix.

The student has its teacher's shape and weights, less the branch that looks at content. On unlabelled tiles of scenes it
learns to give the tokens that its teacher gives them, each feature in units of its own deviation (Romero et al. 2015,
FitNets, arXiv 1412.6550); a head stays as it is. A strip of every scene is not learnt from: there it is told what the
student loses.

Shapes: B tiles, H W pixels, C bands, N tokens, Q pixel tokens, M valid ones of a batch, D width, L layers, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from downstream.supervised.model import TaskModel
from downstream.supervised.views import TURNS, View, turned_batch
from specfm.checkpoint import has_whitened_stem
from specfm.dense.tile_reader import TileReader, fitting_batch, scene_level
from specfm.deploy.bake import with_own_parts
from specfm.engine.config import OptimConfig, RunConfig
from specfm.engine.distributed import World
from specfm.engine.loop import run_task
from specfm.engine.optimizer import adamw
from specfm.engine.task import StepResult, Task
from specfm.errors import UsageError
from specfm.models.backbone import AnyEncoder
from specfm.models.encoder import Encoder
from specfm.models.features import Features
from specfm.models.registry import fresh_like
from specfm.scene import Scene
from specfm.tiles import Tile

STEPS, BATCH, LR = 300, 32, 3e-4
STRIP = 5  # one part in so many of each scene is held out
SURVEYED = 8  # batches that the deviations of the teacher's features are taken from
SEED = 41
EXACT = 1e-5  # of the tokens: where content says no more (it says nothing at the start of a training), all is learnt
Told = dict[str, float]


class Field:
    """A scene cut across its longer side into a part to learn from and a strip to look at the student on.

    Args:
        scene: as the model was taught.
        tile: side of its input, pixels.
        level: ``scene``: tiles are divided by that of the scene.

    Raises:
        UsageError: no room for a tile on both sides.
    """

    def __init__(self, scene: Scene, tile: int, level: str) -> None:
        self.scene, self.tile, self.read = scene, tile, TileReader(scene, 1)
        self.level = scene_level(scene) if level == "scene" else None
        height, width = scene.shape[:2]
        longer = max(height, width)
        strip = max(longer // STRIP, tile)
        if longer - strip < tile:
            raise UsageError(
                f"{scene.where}: {height} x {width} pixels leave no room to learn from and to look at tiles of {tile} "
                "pixels apart from each other; name a larger scene for --content-free"
            )
        first = longer - strip
        self.rows = self.cols = (0, 0)
        self.rows, self.cols = ((0, first), (0, width)) if height >= width else ((0, height), (0, first))
        start = (first, 0) if height >= width else (0, first)
        places = [_steps(*each, tile) for each in zip(start, (height, width), strict=True)]
        self.held = [Tile(row, col, tile, tile) for row in places[0] for col in places[1]]

    def drawn(self, count: int, rng: np.random.Generator) -> View:
        """Tiles anywhere in the part to learn from, all turned alike.

        Raises:
            UsageError: no valid pixel in many of them.
        """
        for _ in range(SURVEYED):
            starts = [rng.integers(max(last - self.tile, 0) + 1, size=count) for _, last in (self.rows, self.cols)]
            places = sorted(zip(*(each.tolist() for each in starts), strict=True))
            view = self.view([Tile(row, col, self.tile, self.tile) for row, col in places], int(rng.integers(TURNS)))
            if view.mask_BHW is not None and view.mask_BHW.any():
                return view
        raise UsageError(f"{self.scene.where}: has no valid pixel to learn from; name another for --content-free")

    def view(self, tiles: Sequence[Tile], turns: int = 0) -> View:
        """These tiles."""
        x, mask = (turned_batch(each, [turns] * len(tiles)) for each in self.read(tiles))
        level = None if self.level is None else torch.full((len(tiles),), self.level)
        return View(x, self.scene.sensor, mask, level)

    def looked_at(self, batch: int) -> Iterator[View]:
        """The tiles of the strip."""
        for start in range(0, len(self.held), batch):
            yield self.view(self.held[start : start + batch])


class Matching(Task):
    """A student learns the tokens of its teacher.

    Args:
        teacher: in evaluation.
        student: is trained.
        layers: numbers of the blocks whose tokens it learns.
        fields: a batch is of one of them, in turn.
        steps: in all.
    """

    folder = None

    def __init__(
        self, teacher: AnyEncoder, student: Encoder, layers: Sequence[int], fields: Sequence[Field], steps: int
    ) -> None:
        self.teacher, self.student, self.layers, self.fields = teacher, student, list(layers), fields
        self.title, self.world = "without content", World(0, 1, student.device)
        optim = OptimConfig(lr=LR, weight_decay=0.0, warmup_steps=max(steps // 10, 1))
        self.config = RunConfig(out="", steps=steps, optim=optim)
        self.modules = nn.ModuleDict({"student": student})
        self.optimizer = adamw(self.modules, optim.lr, optim.weight_decay, optim.betas, student.device)
        tile, bands = fields[0].tile, max(field.scene.shape[2] for field in fields)
        self.batch_size = fitting_batch(BATCH, tile, bands)
        self.rng = np.random.default_rng(SEED)
        self.deviation_LD = torch.ones(len(self.layers), student.num_features)

    @torch.no_grad()
    def start(self, done: int) -> None:
        """Take the deviations of the teacher's tokens from some batches."""
        batches = self.batches(0)
        found = [_tokens(self.teacher, next(batches), self.layers) for _ in range(SURVEYED)]
        layers = [torch.cat([_valid(features) for features in each]) for each in zip(*found, strict=True)]
        self.deviation_LD = torch.stack([values_MD.std(0) for values_MD in layers]).clamp_min(1e-6)

    def release(self, done: int) -> None:
        self.student.eval().requires_grad_(False)

    def batches(self, done: int) -> Iterator[View]:
        while True:
            for field in self.fields:
                yield field.drawn(self.batch_size, self.rng)

    def compute(self, number: int, batch: View) -> StepResult:
        with torch.no_grad():
            wanted = _tokens(self.teacher, batch, self.layers)
        found = _tokens(self.student.train(), batch, self.layers)
        off = [
            (_valid(ours) - _valid(theirs)) / deviation_D
            for ours, theirs, deviation_D in zip(found, wanted, self.deviation_LD, strict=True)
        ]
        loss = torch.stack([(each**2).mean() for each in off]).mean()
        loss.backward()
        return StepResult(loss.detach(), {})


def content_free(
    model: AnyEncoder | TaskModel, scenes: Sequence[Scene], tile: int, *, level: str, steps: int = STEPS
) -> tuple[Any, Told]:
    """A student of the same kind without content, and what it loses on strips of the scenes that it did not learn from.

    Args:
        model: an encoder or a task model of one date; is not changed.
        scenes: as the model was taught; nothing of them but pixels is looked at.
        tile: side of the tiles, pixels.
        level: that these are divided by: ``scene``, ``sample`` or ``none``.
        steps: of learning.

    Returns:
        The student, and: ``error`` (relative to how far the teacher's tokens are from their mean, root mean square),
        ``cosine`` (mean, of student's and teacher's tokens less the teacher's mean), both also ``_dropped``: before
        anything was learnt; of a task model ``agreement`` (share of pixels given the same class) and ``confidence``
        (mean change in the probability of the teacher's class); ``steps``.

    Raises:
        UsageError: a model that has no content to do without or cannot be without, or takes two dates; a scene too
            small.
    """
    task = model if isinstance(model, TaskModel) else None
    if task is not None and task.task == "change":
        raise UsageError("--content-free is for models of one date, and this one takes two; leave it out")
    teacher = model.encoder if isinstance(model, TaskModel) else model
    student = without_content(teacher)
    layers = task.layers if task is not None else [len(student.blocks) - 1]
    fields = [Field(scene, tile, level) for scene in scenes]
    dropped = _lost(teacher, student, layers, fields)
    if dropped["error"] <= EXACT:
        steps = 0
    else:
        run_task(Matching(teacher.eval(), student, layers, fields, steps))
    told = {"steps": steps, **_lost(teacher, student, layers, fields)}
    told |= {f"{name}_dropped": value for name, value in dropped.items()}
    if task is None:
        return student, told
    found = with_own_parts(task).eval()
    found.encoder = student
    return found, told | _disagreement(task, found, fields)


def without_content(encoder: AnyEncoder) -> Encoder:
    """An encoder of the same shape and weights, less the branch that looks at content.

    Raises:
        UsageError: it has none, or there is no such encoder without it.
    """
    if not isinstance(encoder, Encoder) or getattr(encoder.embedding, "linear_in_patches", False):
        raise UsageError("--content-free: this model does not look at content; leave it out")
    if "content" not in encoder.config:
        raise UsageError(
            f"--content-free: the embedding {encoder.config.get('embedding')} cannot do without content; leave it out, "
            "or distil into another encoder: specfm pretrain pretrain/distil.yaml"
        )
    student = fresh_like(encoder, content=False, drop_path=0.0).to(encoder.device)
    assert isinstance(student, Encoder)
    kept = student.state_dict()
    student.load_state_dict({name: value for name, value in encoder.state_dict().items() if name in kept})
    student.card, student.stems = dict(encoder.card), encoder.stems
    if encoder.aligned:
        student.library = encoder.library
    if has_whitened_stem(encoder.card):
        student.stem.requires_grad_(False)
    return student


def _steps(first: int, last: int, tile: int) -> list[int]:
    """Where tiles side by side start between two places; the last one ends at the end."""
    most = max(last - tile, first)
    return sorted({*range(first, most + 1, tile), most})


def _tokens(encoder: AnyEncoder, view: View, layers: Sequence[int]) -> tuple[Features, ...]:
    return encoder.get_intermediate_layers(view.x_BHWC, view.bands, view.mask_BHW, n=layers, level_B=view.level_B)


def _valid(features: Features) -> Tensor:
    """All tokens that have a valid pixel, those of single pixels included."""
    found = features.tokens_BND[features.token_mask_BN]
    if features.pixel_BQD is None or features.pixel_mask_BQ is None:
        return found
    return torch.cat([found, features.pixel_BQD[features.pixel_mask_BQ]])


@torch.inference_mode()
def _lost(teacher: AnyEncoder, student: Encoder, layers: Sequence[int], fields: Sequence[Field]) -> Told:
    """How far the student's tokens of the last layer are from the teacher's on what was held out.

    Raises:
        UsageError: nothing valid there.
    """
    wanted, found = (
        torch.cat([
            _valid(_tokens(encoder.eval(), view, layers[-1:])[0]).double()
            for field in fields
            for view in field.looked_at(fitting_batch(BATCH, field.tile, field.scene.shape[2]))
        ])
        for encoder in (teacher, student)
    )  # fmt: skip
    if not len(wanted):
        where = fields[0].scene.where
        raise UsageError(f"{where}: has no valid pixel to look at in its last part; name another for --content-free")
    mean_D = wanted.mean(0)
    error = (found - wanted).norm() / (wanted - mean_D).norm().clamp_min(1e-12)
    cosine = nn.functional.cosine_similarity(found - mean_D, wanted - mean_D).mean()
    return {"error": round(float(error), 6), "cosine": round(float(cosine), 6)}


@torch.inference_mode()
def _disagreement(teacher: TaskModel, student: TaskModel, fields: Sequence[Field]) -> Told:
    """Whether both give the pixels that were held out the same class, and how sure they are of the teacher's."""
    same, change, pixels = 0, 0.0, 0
    for field in fields:
        for view in field.looked_at(fitting_batch(BATCH, field.tile, field.scene.shape[2])):
            theirs_BHWK, ours_BHWK = (
                model.probabilities(model.dense_scores(view), view) for model in (teacher.eval(), student)
            )
            valid_BHW = theirs_BHWK.sum(-1) > 0
            best_BHW = theirs_BHWK.argmax(-1)
            gained_BHW = (ours_BHWK - theirs_BHWK).gather(-1, best_BHW[..., None])[..., 0]
            same += int((ours_BHWK.argmax(-1) == best_BHW)[valid_BHW].sum())
            change += float(gained_BHW[valid_BHW].double().sum())
            pixels += int(valid_BHW.sum())
    return {"agreement": round(same / max(pixels, 1), 6), "confidence": round(change / max(pixels, 1), 6)}
