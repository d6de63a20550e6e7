"""Encoders fitted without labels to the very scenes that are probed: one stem from all of them, or one for each scene.

It is unlabelled use of the test scenes, as minimum noise fraction of a whole scene is; rows say so in ``fitted``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from specfm.dense.align import in_use
from specfm.dense.fit import Fitted, acquisition
from specfm.dense.fit_tokens import stems_of
from specfm.errors import UsageError

if TYPE_CHECKING:
    from specfm.scene import Scene

Fit = bool | Literal["scene"]
FITTED = (
    "features of encoder and untrained twins (and of MNF of whole scenes, where it stands): fitted without labels to {}"
)
BEGINS_FITTED = "what is fine-tuned begins with a stem that was fitted without labels to scenes"
NOT_FITTED = "what is fine-tuned begins with the stem of the checkpoint: one stem is fitted to one sensor alone"


class SceneStems:
    """Which stem an encoder has while features of a scene are taken.

    Args:
        encoder: changed when :meth:`on` is called.
        by_scene: what was fitted to each scene, by its identity.

    Attributes:
        digest: JSON-safe; says what was fitted.
    """

    def __init__(self, encoder: Any, by_scene: Sequence[tuple[Scene, Fitted]]) -> None:
        self.encoder = encoder
        self._fitted = {id(scene): (scene, fitted) for scene, fitted in by_scene}
        self.digest = [fitted.record for _, fitted in by_scene]

    def on(self, scene: Scene) -> None:
        """Give the encoder the stem of this scene."""
        self._fitted[id(scene)][1].into(self.encoder)


def fit_facts(encoder: Any) -> dict[str, Any]:
    """What of an encoder's card decides how it, or an untrained twin of it, is fitted; JSON-safe."""
    card = getattr(encoder, "card", None) or {}
    return {name: card[name] for name in ("whiten", "window") if name in card}


def check_fit(fit: Fit, align: bool | None) -> None:
    """Refuse what is no way to fit, or what cannot be compared.

    Raises:
        UsageError: it is.
    """
    if fit not in (False, True, "scene"):
        raise UsageError(f"fit {fit!r}: give true (one stem for all scenes), 'scene' (one each) or false")
    if fit == "scene" and align:
        raise UsageError(
            "--fit scene gives every scene a stem of its own, between which no map is known; leave --align out, or fit "
            "all scenes --fit together"
        )


def begins_fitted(fit: Fit, scenes: Sequence[Scene]) -> bool:
    """Whether what is fine-tuned begins fitted: it holds one stem, and that suits one sensor.

    Several sensors go through one stem only where they are aligned, and in training they are not.
    """
    return fit is True and len({scene.sensor.bands.digest for scene in scenes}) == 1


@contextmanager
def fitted(
    encoder: Any, scenes: Sequence[Scene], fit: Fit, like: Mapping[str, Any] | None = None
) -> Iterator[SceneStems | None]:
    """Within it the encoder is fitted to the scenes; then it is as before.

    Args:
        encoder: a specfm encoder.
        scenes: to which it is fitted.
        fit: False leaves it alone.
        like: the card whose recipe and window are taken, where that is not the encoder's own (untrained twins).

    Returns:
        Where each scene has its own stem, what must be told which scene's features are taken; else None.

    Raises:
        UsageError: an encoder without a stem to fit, or what ``encoder.fit`` refuses.
    """
    if not fit or encoder is None:
        yield None
        return
    if not hasattr(encoder, "fit"):
        raise UsageError("only encoders of specfm can be fitted to scenes; leave --fit out")
    with in_use(encoder):
        before = [(stem, stem.weight.clone(), stem.bias.clone()) for stem in stems_of(encoder)]
        stems, card, library, alignment = encoder.stems, encoder.card, encoder.library, encoder.alignment
        encoder.card = dict(card if like is None else like)
        try:
            if fit == "scene":
                yield SceneStems(encoder, [(scene, acquisition(encoder, [scene])) for scene in scenes])
            else:
                encoder.fit(scenes)
                yield None
        finally:
            for stem, weight_DD, bias_D in before:
                stem.set(weight_DD, bias_D)
            encoder.stems, encoder.card, encoder.library = stems, card, library
            encoder.alignment = alignment
