"""A task model: encoder + head, and the folder it is released as.

Shapes: B tiles, H W pixels, C bands, N tokens, D width, L layers, h w token grid, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from downstream.features.pooling import pixel_tokens, pool, pooling_parts
from downstream.features.standardise import Standardiser
from downstream.supervised.decide import decide
from downstream.supervised.heads import ON_WINDOWS, Fusion, Standardise, make_head
from downstream.supervised.views import View, valid_pixels
from specfm.errors import SpecfmError, UsageError
from specfm.models.backbone import AnyEncoder, Backbone, side_multiple
from specfm.models.encoder import Bands
from specfm.models.features import Features
from specfm.models.one_size import refuse_other_side
from specfm.models.pixels import Asked

if TYPE_CHECKING:
    from specfm.library import Library
    from specfm.models.stem import Stems

TASKS = ("classification", "segmentation", "change")
CHANGE_NAMES = ("unchanged", "changed")


@dataclass(frozen=True)
class HeadSpec:
    """What a head is built from.

    Attributes:
        kind: ``linear``, ``fpn`` or ``upernet``; classification: ``linear`` on standardised tokens that are then
            pooled, or ``pooled``, on pooled features that are then standardised (what a linear probe sees).
        layers: blocks whose tokens it reads, shallow to deep; negative counts from the end.
        channels: width of a pyramid.
        dropout: before the scores.
        fusion: how two dates become one (change).
        pooling: of a window's tokens (classification; see ``downstream.features.pooling``).
    """

    kind: str = "linear"
    layers: tuple[int, ...] = (-1,)
    channels: int = 64
    dropout: float = 0.1
    fusion: str = "difference"
    pooling: str = "concat"


class TaskModel(nn.Module):
    """An encoder with a head.

    Args:
        encoder: shared by both dates of a pair; each date comes with its own bands.
        task: one of :data:`TASKS`.
        label_names: the K classes (change: :data:`CHANGE_NAMES`).
        tile: side of the tile (of the window, for classification) it was trained on, pixels.
        head: see :class:`HeadSpec`.
        threshold: probability above which a pixel counts as changed; None for other tasks (the largest wins).
        level: ``scene``: train and map with one brightness level for the whole scene (``level_B``); ``sample``: each
            tile its own.

    Raises:
        UsageError: an unknown task, head, layer, fusion or pooling, or a tile that the patch does not divide.
    """

    def __init__(
        self,
        encoder: AnyEncoder,
        task: str,
        label_names: Sequence[str],
        tile: int,
        head: HeadSpec | None = None,
        threshold: float | None = None,
        level: str = "scene",
    ) -> None:
        super().__init__()
        head = head or HeadSpec()
        names, windows = tuple(label_names), task == "classification"
        if task not in TASKS:
            raise UsageError(f"unknown task {task!r}; choose one of {', '.join(TASKS)}")
        if task == "change" and names != CHANGE_NAMES:
            raise UsageError(f"a change model has the classes {CHANGE_NAMES}, not {names}")
        if len(names) < 2 or len(set(names)) < len(names):
            raise UsageError(f"a task model needs at least two classes, each once; got {', '.join(names) or 'none'}")
        # a window of one pixel (a spectrum without ground) is a patch padded
        unit = side_multiple(encoder)
        if (tile < unit or tile % unit) and not (windows and tile == 1):
            raise UsageError(f"tile {tile} is not a multiple of the encoder's patch of {unit} pixels")
        refuse_other_side(encoder, tile, "tile")
        if level not in ("scene", "sample"):
            raise UsageError(f"unknown level {level!r}; choose scene or sample")
        if windows and (head.kind not in ON_WINDOWS or len(head.layers) != 1):
            raise UsageError("classification takes head.kind=linear on one layer; choose segmentation for dense heads")
        if not windows and head.kind == "pooled":
            raise UsageError(f"head.kind=pooled gives one class to a window; choose linear, fpn or upernet for {task}")
        parts = len(pooling_parts(head.pooling)) if windows else 1
        if windows and "pixel" in pooling_parts(head.pooling) and not encoder.pixel:
            raise UsageError(
                "head.pooling names pixel, but the encoder has no pixel tokens; choose mean, centre or concat"
            )
        depth, width = len(encoder.blocks), encoder.num_features
        if not head.layers or any(not -depth <= i < depth for i in head.layers):
            raise UsageError(f"head layers {list(head.layers)} do not exist in an encoder of {depth} blocks")
        self.layers = sorted({i % depth for i in head.layers})
        self.encoder, self.task, self.label_names, self.tile = encoder, task, names, int(tile)
        self.spec, self.threshold, self.level = head, threshold, level
        self.card: dict[str, Any] = {}
        self.pools_first = head.kind == "pooled"
        # Dates differ in season, light and perhaps sensor: each has its own mean and deviation, layer by layer.
        kinds = (2 if task == "change" else 1) * len(self.layers)
        self.standardise = Standardise(kinds, parts * width if self.pools_first else width)
        self.fusion = Fusion(head.fusion, width) if task == "change" else None
        if self.fusion is not None:
            width = self.fusion.width
        self.head = make_head(head.kind, len(self.layers), parts * width, len(names), head.channels, head.dropout)

    @property
    def classes(self) -> int:
        """K."""
        return len(self.label_names)

    @property
    def sees_windows_whole(self) -> bool:
        """Whether a window gets one class that says nothing of its parts: a map then takes one window a pixel."""
        return self.task == "classification" and isinstance(self.encoder, Backbone)

    @property
    def device(self) -> torch.device:
        return self.encoder.device

    @property
    def library(self) -> Library | None:
        """What the encoder needs to go on as it was trained: the spectra that it is aligned by, if it is."""
        return self.encoder.library if self.encoder.aligned else None

    @library.setter
    def library(self, library: Library) -> None:
        self.encoder.library = library

    @property
    def stems(self) -> Stems | None:
        """Those of the acquisitions that the encoder was pretrained on, where each has its own."""
        return self.encoder.stems

    @stems.setter
    def stems(self, stems: Stems) -> None:
        self.encoder.stems = stems

    def layer_features(self, view: View, pixels: Asked = "centre") -> tuple[Features, ...]:
        """Features of the head's layers; ``pixels``: which have a token of their own, if any."""
        return self.encoder.get_intermediate_layers(
            view.x_BHWC, view.bands, view.mask_BHW, n=self.layers, level_B=view.level_B, pixels=pixels
        )

    def token_maps(self, view: View, second: View | None = None) -> tuple[list[Tensor], Tensor]:
        """Standardised, fused maps ``[B, D, h, w]`` per layer, and which tokens have a valid pixel ``[B, h, w]``."""
        one = self.layer_features(view)
        mask_BN, grid = one[0].token_mask_BN, one[0].grid_hw[0]
        tokens = [self.standardise(f.tokens_BND, i) for i, f in enumerate(one)]
        if self.fusion is not None:
            assert second is not None
            two = self.layer_features(second)
            other_BN = two[0].token_mask_BN
            others = [self.standardise(f.tokens_BND, len(two) + i) for i, f in enumerate(two)]
            tokens = [self.fusion(a, b, mask_BN, other_BN) for a, b in zip(tokens, others, strict=True)]
            mask_BN = mask_BN & other_BN
        zeroed = [torch.where(mask_BN[..., None], t, 0.0) for t in tokens]
        maps = [rearrange(t, "B (h w) D -> B D h w", h=grid[0]) for t in zeroed]
        return maps, rearrange(mask_BN, "B (h w) -> B h w", h=grid[0])

    def pooled(self, view: View) -> Tensor:
        """Pooled features of windows ``[B, D]`` (classification), standardised unless the head pools first."""
        return self.pool(self._window_features(view), view)

    def of_pooled(self, x_BD: Tensor) -> Tensor:
        """Scores ``[B, K]`` of pooled features (classification)."""
        x_BD = self.standardise(x_BD) if self.pools_first else x_BD
        return self.head([x_BD[..., None, None]])[..., 0, 0]

    def forward(self, view: View, second: View | None = None) -> Tensor:
        """Scores before the softmax: ``[B, K]`` of windows (classification), else ``[B, K, H, W]`` of pixels."""
        self._check(view, second)
        if self.task == "classification":
            return self.of_pooled(self.pooled(view))
        maps, _ = self.token_maps(view, second)
        return self._to_pixels(self.head(maps), maps[0].shape[-2:], view, "bilinear")

    def dense_scores(self, view: View, second: View | None = None) -> Tensor:
        """Scores of pixels ``[B, K, H, W]``; a classification head is applied to each token in place of the centre, and
        to each pixel where it looks at one.

        Where windows are seen as wholes, all pixels of a tile have the scores of its middle one.
        """
        if self.sees_windows_whole:
            return self(view, second)[..., None, None].expand(-1, -1, *view.x_BHWC.shape[1:3])
        if self.task != "classification":
            return self(view, second)
        self._check(view, second)
        parts = pooling_parts(self.spec.pooling)
        single = "pixel" in parts
        features = self._window_features(view, "all" if single else "centre")
        mean_BND = features.pooled_BD[:, None].expand_as(features.tokens_BND)
        grid, height = features.grid_hw[0], view.x_BHWC.shape[1]
        found = []
        for part in parts:
            if part == "pixel":
                x_BDhw = rearrange(pixel_tokens(features), "B (H W) D -> B D H W", H=height)
            else:
                x_BND = mean_BND if part == "mean" and len(parts) > 1 else features.tokens_BND
                x_BDhw = rearrange(x_BND, "B (h w) D -> B D h w", h=grid[0])
                x_BDhw = self._to_pixels(x_BDhw, grid, view, "nearest") if single else x_BDhw
            found.append(x_BDhw)
        x_BDhw = torch.cat(found, 1)
        if self.pools_first:
            x_BDhw = self.standardise(x_BDhw.movedim(1, -1)).movedim(-1, 1)
        scores = self.head([x_BDhw])
        return scores if single else self._to_pixels(scores, grid, view, "nearest")

    @torch.inference_mode()
    def predict_tile(
        self,
        x_BHWC: Tensor | np.ndarray,
        bands: Bands,
        mask_BHW: Tensor | np.ndarray | None = None,
        level_B: Tensor | np.ndarray | None = None,
        x2_BHWC: Tensor | np.ndarray | None = None,
        bands2: Bands | None = None,
        mask2_BHW: Tensor | np.ndarray | None = None,
        level2_B: Tensor | np.ndarray | None = None,
    ) -> Tensor:
        """Class probabilities of every pixel of B tiles.

        Args:
            x_BHWC: values as stored; any side, those of ``self.tile`` are what the model knows.
            bands: one Sensor or BandGrid for all tiles, one per tile, or BandTensors.
            mask_BHW: True = valid pixel (non-finite values are always invalid).
            level_B: physical level that divides each tile; pass the scene's where ``self.level`` is ``scene``.
            x2_BHWC: the second date (change only), from any sensor.
            bands2: its bands.
            mask2_BHW: its valid pixels.
            level2_B: its processing levels.

        Returns:
            ``[B, H, W, K]`` float32 on the model's device: probabilities that sum to 1, zeros where a pixel is invalid
            (at either date).

        Raises:
            SpecfmError: no second date for a change model, one for another task, or dates of different extent.
        """
        view = View(_tensor(x_BHWC), bands, _tensor(mask_BHW), _tensor(level_B))
        second = None
        if x2_BHWC is not None:
            if bands2 is None:
                raise SpecfmError(
                    "the second date needs its own bands; pass bands2 (the first date's where they agree)"
                )
            second = View(_tensor(x2_BHWC), bands2, _tensor(mask2_BHW), _tensor(level2_B))
        was_training = self.training
        self.eval()
        try:
            return self.probabilities(self.dense_scores(view, second), view, second)
        finally:
            self.train(was_training)

    def probabilities(self, scores: Tensor, view: View, second: View | None = None) -> Tensor:
        """``[B, H, W, K]`` of dense scores ``[B, K, H, W]``; zeros where a pixel is invalid (at either date)."""
        valid_BHW = valid_pixels(view).to(scores.device)
        if second is not None:
            valid_BHW = valid_BHW & valid_pixels(second).to(scores.device)
        probabilities = scores.float().softmax(1).movedim(1, -1)
        return torch.where(valid_BHW[..., None], probabilities, 0.0)

    def decide(self, probabilities_K: np.ndarray) -> np.ndarray:
        """Class per pixel of ``[..., K]`` probabilities; -1 invalid."""
        return decide(self.task, self.threshold, probabilities_K)

    @torch.no_grad()
    def settle_batch_norm(self, *dates: Sequence[View]) -> None:
        """Give an encoder's batch norm the mean statistics of training tiles, one list of views per date, by which it
        is evaluated from then on; nothing else of it changes."""
        norms = [each for each in self.encoder.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
        momenta = [each.momentum for each in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all calls, each counted alike
        self.encoder.train()
        for view in (view for views in dates for view in views) if norms else ():
            self.layer_features(view)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    @torch.no_grad()
    def fit_standardiser(self, *dates: Sequence[View]) -> None:
        """Fix the head's standardisation from training tiles, one list of views per date: from their valid tokens, or
        from pooled features where the head pools first.

        Raises:
            SpecfmError: no valid pixel in any of them.
        """
        found: list[Tensor] = []
        for views in dates:
            layers: list[list[Tensor]] = [[] for _ in self.layers]
            for view in views:
                for i, features in enumerate(self.layer_features(view)):
                    known_BN = features.token_mask_BN
                    values = (
                        self.pool(features, view)[known_BN.any(1)]
                        if self.pools_first
                        else features.tokens_BND[known_BN]
                    )
                    layers[i].append(values)
            found += [torch.cat(each) for each in layers]
        if not min(len(values) for values in found):
            raise SpecfmError("no valid pixel in the training tiles; look at the masks of the scenes")
        for i, values_MD in enumerate(found):
            self.standardise.take(i, Standardiser(values_MD.double().cpu().numpy()))

    def config(self) -> dict[str, Any]:
        """JSON description from which the same model can be built."""
        return {
            "task": {
                "task": self.task, "label_names": list(self.label_names), "tile": self.tile,
                "threshold": self.threshold, "level": self.level, "head": {**asdict(self.spec)},
            },
            "encoder": self.encoder.config,
        }  # fmt: skip

    def _window_features(self, view: View, pixels: Asked = "centre") -> Features:
        """Tokens of windows with their mean, standardised unless the head pools first."""
        found = self.layer_features(view, pixels)[0]
        if self.pools_first:
            return found
        mask_BN = found.token_mask_BN
        tokens_BND = torch.where(mask_BN[..., None], self.standardise(found.tokens_BND), 0.0)
        mean_BD = tokens_BND.sum(1) / mask_BN.sum(1, keepdim=True).clamp_min(1)
        pixel_BQD = None if found.pixel_BQD is None else self.standardise(found.pixel_BQD)
        return replace(found, tokens_BND=tokens_BND, pooled_BD=mean_BD, pixel_BQD=pixel_BQD)

    def pool(self, features: Features, view: View) -> Tensor:
        """Features of windows as the head pools them ``[B, D]`` (classification)."""
        found: Tensor = pool(features, self.spec.pooling, view.x_BHWC.shape[1], self.encoder.patch_size)
        return found

    def _to_pixels(self, scores: Tensor, grid_hw: Sequence[int], view: View, how: str) -> Tensor:
        p, (height, width) = self.encoder.patch_size, view.x_BHWC.shape[1:3]
        size = (grid_hw[0] * p, grid_hw[1] * p)
        smooth = {"align_corners": False} if how == "bilinear" else {}
        return F.interpolate(scores, size=size, mode=how, **smooth)[:, :, :height, :width]

    def _check(self, view: View, second: View | None) -> None:
        if (second is not None) != (self.task == "change"):
            need = "needs a second date" if second is None else "takes one date"
            raise SpecfmError(f"a {self.task} model {need}; give {'two scenes' if second is None else 'one scene'}")
        if second is not None and second.x_BHWC.shape[:3] != view.x_BHWC.shape[:3]:
            one, two = (" x ".join(map(str, v.x_BHWC.shape[1:3])) for v in (view, second))
            raise SpecfmError(f"the two dates have different extents ({one} and {two} pixels); cut them to one grid")


def _tensor(x: Any) -> Any:
    return torch.from_numpy(np.ascontiguousarray(x)) if isinstance(x, np.ndarray) else x
