"""What a training said of the test side, kept beside the features of the bank: a killed probe does not train twice.

An entry is one safetensors file named by a digest of all that decides it: weights, pixels and labels, split, options,
code. Only the predictions are kept, not the trained networks. Deleting the files is always safe.

Shapes: I samples of the test side.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from downstream.features.bank import Bank, code_digest
from downstream.features.encoders import encoder_device
from downstream.protocols.options import TrainOptions
from downstream.splits.split import Split
from specfm.digests import digest_json, state_digest
from specfm.errors import SpecfmError

log = logging.getLogger(__name__)
FORMAT = "specfm-predictions-1"
# Code that decides what a training comes to, beside what decides features.
_DECIDING = (
    *("downstream.protocols.trained", "downstream.protocols.classifier", "downstream.protocols.windows"),
    *("downstream.protocols.linear", "downstream.protocols.weights"),
    *("downstream.supervised", "specfm.engine", "specfm.dense"),
)
Said = dict[str, tuple[np.ndarray, np.ndarray, float]]  # by condition: predicted_I, confidence_I, seconds


class KeptPredictions:
    """Predictions of one encoder that is trained on several splits of the same samples.

    Args:
        bank: where they are kept; None: nowhere.
        encoder: what is trained; it is not changed.
        data: digest of the windows (``downstream.features.bank.windows_digest``) by condition.
        options: how encoders are trained.
        told: what else decides: window, pooling, whether its weights count, how it is trained.
    """

    def __init__(
        self,
        bank: Bank | None,
        encoder: Any,
        data: Mapping[str, str],
        options: TrainOptions,
        **told: Any,
    ) -> None:
        self.bank, self.facts = bank, {}
        if bank is not None:
            import torch

            self.facts = {
                "format": FORMAT,
                "checkpoint": state_digest(encoder),
                "data": dict(data),
                "options": asdict(options),
                "code": [code_digest(), code_digest(_DECIDING)],
                "torch": [str(torch.__version__), encoder_device(encoder).type],
                **told,
            }

    def get(self, split: Split, compute: Callable[[], Said]) -> Said:
        """What was kept of a split, else what ``compute`` says, which is then kept."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file, save

        from specfm.files import atomic_write_bytes

        if self.bank is None:
            return compute()
        path = self.bank.folder / f"{digest_json({**self.facts, 'split': split.digest})}.predictions"
        try:
            held = load_file(path)
            names = list(self.facts["data"])
            found = {
                name: (held[f"{n}/predicted"], held[f"{n}/confidence"], float(held[f"{n}/seconds"][0]))
                for n, name in enumerate(names)
            }
            if all(len(each[0]) == len(split.test_I) == len(each[1]) for each in found.values()):
                return found
            log.warning("%s does not fit its split; it is trained again", path)
        except FileNotFoundError:
            pass
        except (SafetensorError, OSError, KeyError, ValueError, IndexError) as error:
            log.warning("%s cannot be read (%s); it is trained again", path, error)
        said = compute()
        tensors: dict[str, np.ndarray] = {}
        for n, (predicted_I, confidence_I, seconds) in enumerate(said.values()):
            tensors |= {
                f"{n}/predicted": predicted_I, f"{n}/confidence": confidence_I, f"{n}/seconds": np.array([seconds])
            }  # fmt: skip
        try:
            self.bank.folder.mkdir(parents=True, exist_ok=True)
            atomic_write_bytes(path, save(tensors))
        except OSError as error:
            if self.bank.strict:
                raise SpecfmError(
                    f"predictions cannot be kept in {self.bank.folder} ({error}); choose another --cache"
                ) from None
            log.warning("predictions cannot be kept in %s (%s)", self.bank.folder, error)
        return said
