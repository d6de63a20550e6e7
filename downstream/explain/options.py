"""What is asked of explanations and of comparisons of bands, and where each default stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from downstream.probe.options import ProbeOptions
from downstream.protocols.options import FROZEN
from specfm.band_selection import BandSelection
from specfm.errors import UsageError

FEW = ProbeOptions(seeds=3, max_per_class=20)  # every range is a pass over all samples
WIDTHS_NM: tuple[float, ...] = (20.0, 50.0, 100.0)
COUNTS: tuple[int, ...] = (10, 20, 50, 100, 200, 408)
UNREAD: tuple[str, ...] = ("peers", "baselines", "pca", "init_seeds", "trained_seeds", "train")  # of a probe's options
SELECTIONS: tuple[str, ...] = ("rgb", "regions", "importance:20", "pca:20")


@dataclass(frozen=True)
class ExplainOptions:
    """How bands are explained.

    Attributes:
        probe: samples, splits, windows, pooling and strengths of the probe that is explained.
        widths_nm: of the ranges that are occluded; neighbours overlap by half.
        gradients: test samples that gradients are integrated for; 0 leaves them out.
        steps: of the integral.
    """

    probe: ProbeOptions = FEW
    widths_nm: tuple[float, ...] = WIDTHS_NM
    gradients: int = 100
    steps: int = 32

    def check(self) -> None:
        """Refuse what makes no sense, by name.

        Raises:
            UsageError: a width that is not above 0, negative numbers, options of a probe that nothing here reads.
        """
        _check_probe(self.probe, (*UNREAD, "protocols", "ks"))
        if not self.widths_nm or min(self.widths_nm) <= 0:
            raise UsageError("--widths are widths of ranges in nm, above 0")
        if self.gradients < 0 or self.steps < 2:
            raise UsageError("--gradients is a number of samples (0 for none) and its --steps are 2 or more")


@dataclass(frozen=True)
class CompareOptions:
    """Which bands are compared.

    Attributes:
        probe: as in a probe; its own ``bands`` is what all others choose from.
        counts: numbers of bands spread evenly in nm; those above what the scenes have are left out.
        selections: other choices (``specfm.band_selection``), ``pca:N`` among them.
    """

    probe: ProbeOptions = FEW
    counts: tuple[int, ...] = COUNTS
    selections: tuple[str, ...] = SELECTIONS

    def check(self) -> None:
        """Refuse what makes no sense, by name.

        Raises:
            UsageError: no choice, a number below 1, bands chosen by no known rule, protocols that train the encoder,
                options of a probe that nothing here reads.
        """
        _check_probe(self.probe, UNREAD)
        if self.probe.trained:
            raise UsageError(
                f"--protocol {self.probe.trained[0]} trains the encoder, and bands are compared with a frozen one; "
                f"choose among {', '.join(FROZEN)}"
            )
        for text in self.selections:
            BandSelection.parse(text)
        if not self.counts and not self.selections:
            raise UsageError("nothing to compare: give --counts or --selections")
        if self.counts and min(self.counts) < 1:
            raise UsageError("--counts are numbers of bands, 1 and up")


def _check_probe(probe: ProbeOptions, unread: Sequence[str]) -> None:
    probe.check()
    if probe.fit == "scene":
        raise UsageError("bands are hidden from one encoder for all scenes; use --fit together")
    if len(probe.shot_list) > 1:
        raise UsageError("bands are explained and compared by one number of shots; give one, or None for all labels")
    plain = ProbeOptions()
    if asked := [name for name in unread if getattr(probe, name) != getattr(plain, name)]:
        raise UsageError(f"nothing here reads {', '.join(asked)} of the probe; leave them as they are by default")
