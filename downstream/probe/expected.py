"""What a probe refuses at once, and what it will cost, said before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from downstream.features.bank import Bank
from downstream.features.cost import seconds_a_window
from downstream.features.extract import check_window
from downstream.features.pooling import chosen_layers
from downstream.probe.options import ProbeOptions
from downstream.protocols.options import TrainOptions
from downstream.splits.samples import Samples
from specfm.progress import expect, words_of

if TYPE_CHECKING:
    from specfm.scene import Scene

TRAINING = 3.0  # a step of training takes so many times the forward pass of its windows


@dataclass(frozen=True)
class Counts:
    """How often windows are looked at.

    Attributes:
        passes: times that features of all samples are worked out: encoders, each under so many conditions.
        trainings: times that an encoder is trained on the labels.
    """

    passes: int
    trainings: int


def refuse_early(encoder: Any, window: int, options: ProbeOptions, bank: Bank | None) -> None:
    """Refuse before any work what could not be worked out in the end.

    Raises:
        UsageError: a window that the encoder cannot see, blocks that it does not have.
        SpecfmError: features cannot be kept where they are to be.
    """
    if options.frozen:
        check_window(encoder, window)
        if options.layers:
            chosen_layers(encoder, options.layers)
        if bank is not None:
            bank.open()


def say_expected(
    encoder: Any, scenes: Sequence[Scene], samples: Samples, window: int, options: ProbeOptions, counts: Counts
) -> None:
    """Say on stderr about how long features and trainings of a probe will take, where that is more than seconds.

    Args:
        encoder: timed on a few windows.
        scenes: of the samples.
        samples: labelled windows.
        window: their side, pixels.
        options: pooling, and how encoders are trained.
        counts: how often that happens.
    """
    if not counts.passes and not counts.trainings:
        return
    each = seconds_a_window(encoder, scenes, samples, window, options.pooling)
    features = each * len(samples) * counts.passes
    training = counts.trainings * seconds_of_training(each, options.train)
    parts = []
    if counts.passes:
        parts.append(f"features of {len(samples)} windows, {counts.passes} times ({words_of(features)})")
    if counts.trainings:
        parts.append(f"{counts.trainings} trainings of up to {options.train.steps} steps ({words_of(training)})")
    expect(features + training, "; ".join(parts) + "; the fits of every split come on top, what is kept costs nothing")


def seconds_of_training(each: float, options: TrainOptions) -> float:
    """Seconds that one training takes at most, where the forward pass of a window takes ``each``."""
    return TRAINING * each * options.batch * options.steps
