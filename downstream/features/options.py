"""What is taken of an encoder: window, pooling, layers, alignment, and which published encoders stand beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from downstream.splits.options import at_least
from specfm.band_selection import NO_COMPONENTS, BandSelection
from specfm.errors import UsageError
from specfm.pretreatment import parse_steps


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """How features are made.

    Attributes:
        window: side of the window, pixels; None = as pretrained, and 1 for lists of spectra.
        pooling: what is taken of the encoder (``downstream.features.pooling``).
        layers: of which blocks.
        align: put features of all sensors as the poorest of them would tell it, those of one sensor as an ideal one
            would (:meth:`specfm.models.Encoder.align`); None does so where the scenes were seen through different bands
            and the encoder comes with a library.
        fit: whiten the stem of the encoder and its untrained twins for the probed scenes, without labels
            (``downstream.features.fit``): one stem from all scenes, or with "scene" one for each.
            What is fine-tuned on one sensor begins with the former too, and holds it.
        whole: one sample a specimen, the whole of it on so many pixels a side (``specfm.specimens``); the window is
            then of that size.
        bands: use these bands of every scene only, in all rows (``specfm.band_selection``).
        peers: published encoders (``downstream.features.peers``).
        pretreatment: what is done to spectra first, in order (``specfm.pretreatment.steps``); baselines see it too.
    """

    window: int | None = None
    pooling: str = "concat"
    layers: tuple[int, ...] = ()
    align: bool | None = None
    fit: bool | Literal["scene"] = False
    whole: int | None = None
    bands: str | None = None
    peers: tuple[str, ...] = ()
    pretreatment: tuple[str, ...] = ()

    @property
    def done_to_data(self) -> str:
        """What is done to scenes before all else, as the names of data in tables end with it; empty if nothing."""
        whole = [f"whole {self.whole}"] if self.whole is not None else []
        bands = [f"bands {self.bands}"] if self.bands is not None else []
        told = [*bands, *whole, *self.pretreatment]
        return f" ({', '.join(told)})" if told else ""

    def check(self) -> None:
        """Refuse what makes no sense, by name.

        Raises:
            UsageError: a window below 1, an unknown pooling, fit, peer or pretreatment, bands chosen by no known rule.
        """
        from downstream.features.fit import check_fit
        from downstream.features.pooling import pooling_parts

        pooling_parts(self.pooling)
        parse_steps(self.pretreatment)
        check_fit(self.fit, self.align)
        at_least(1, {"--window": self.window})
        at_least(2, {"--whole": self.whole})
        if self.whole is not None and self.window not in (None, self.whole):
            raise UsageError(f"--whole {self.whole} is the window; leave --window out")
        if self.bands is not None and BandSelection.parse(self.bands).kind == "pca":
            raise UsageError("--bands: " + NO_COMPONENTS.format(what="the encoder and its controls are told of"))
        if self.peers:
            from downstream.features.peers import PeerName

            for peer in self.peers:
                PeerName.parse(peer)
