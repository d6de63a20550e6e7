"""Where NT-Xent starts: a linear stem that already tells samples apart, and views and domains not.

Among linear maps of the tokens the one that suits a contrastive loss best has a closed form: divide out the covariance
of what changes between two views of one sample (place in the window, light, noise). Random stems see mostly what all
spectra of a scene share, and hundreds of steps of the loss do not look past it (on tree crowns, kNN of untrained
features: mean recall .46 with a random stem, .66 with a whitened one). What differs between whole domains is divided
out too: with it, the loss told domains apart and nothing within them (4.8, where knowing the domain alone gives 4.84).
The same idea as within-class covariance normalisation of speaker features, and as minimum noise fraction, which
estimates noise from neighbouring pixels (Green et al., IEEE TGRS 26, 1988).

Shapes: B samples, N tokens, D width, L spectra of a library, M those of one quantity.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from pretrain.views.config import ViewConfig
from pretrain.views.view import make_view
from specfm.batch import BandTensors, Batch, BatchPart
from specfm.models.alignment import stem_tokens
from specfm.models.encoder import Encoder
from specfm.models.stem import Stem
from specfm.sensors import QUANTITIES, Sensor
from specfm.simulate.responses import draw_sensor

MICRO_BATCH = 256  # samples viewed at once
# Of what alignment leaves, beside what changes between views. Of 1, 10, 300 and 3000 (one start each) the first three
# score alike across sensors, the last loses on most scenes.
SENSORS, SENSORS_WEIGHT = 40, 10.0


@torch.no_grad()
def whiten_stem(encoder: Encoder, batches: Iterable[Batch], views: ViewConfig, seed: int, damping: float) -> None:
    """Set ``encoder.stem`` to ``W (t - mean)`` with ``W = c (S + damping tr(S)/D)^(-1/2)``.

    ``S`` is the covariance of the difference between tokens of two views of a sample plus that of the means of domains,
    ``mean`` that of all samples, and c gives pooled tokens a deviation of 1 within the parts of a batch. Each part is
    measured in units of the spread of its own samples, so that a noisy sensor does not speak for all, and draws its
    bands anew for every sample. Views are not turned: tokens of one index then lie a pixel or two apart.

    Tokens of an aligned encoder are measured aligned, all their bands told, and what alignment leaves of the difference
    between sensors is divided out too (:func:`left_by_alignment`).

    Args:
        encoder: changed in place, whatever its stem was.
        batches: raw, as stored.
        views: how positives are made.
        seed: of their random numbers.
        damping: share of the mean eigenvalue added to all.
    """
    width, stem = encoder.num_features, encoder.stem
    assert isinstance(stem, Stem), "setup.make_modules refuses trunks without a stem"
    noise_DD = torch.zeros(width, width, dtype=torch.float64, device=encoder.device)
    spread_DD = torch.zeros_like(noise_DD)
    sums: dict[int, tuple[Tensor, Tensor, int]] = {}  # by domain: sum of samples, sum of units, samples
    pairs = samples = 0
    # what a pretreatment does to a spectrum is no noise of the sensor
    views = views.model_copy(update={"band_draw": "sample", "dihedral": False, "pretreatment": ()})
    if encoder.alignment is not None:
        every = {"keep_low": 1.0, "keep_high": 1.0, "merge_probability": 0.0, "window_probability": 0.0}
        views = views.model_copy(update=every)
    stem.reset()
    for number, batch in enumerate(batches):
        for start in range(0, len(batch), MICRO_BATCH):
            some = batch.select(start, min(start + MICRO_BATCH, len(batch)))
            # negative steps: views that training itself will never draw
            one, two = (make_view(some, views, seed, -1 - number, view) for view in (0, 1))
            for first, second in zip(one, two, strict=True):
                if len(first) < 2:  # one sample has no spread to measure in
                    continue
                (a_BND, a_BN), (b_BND, b_BN) = _tokens(encoder, first), _tokens(encoder, second)
                both_BN = a_BN & b_BN
                change_MD = (a_BND - b_BND)[both_BN]
                pooled_BD = (a_BND * a_BN[..., None]).sum(1) / a_BN.sum(1, keepdim=True).clamp_min(1)
                centred_BD = pooled_BD - pooled_BD.mean(0)
                unit = centred_BD.square().mean().clamp_min(1e-30)
                noise_DD += change_MD.T @ change_MD / (2 * unit)
                spread_DD += centred_BD.T @ centred_BD
                domain = int(first.domain_B[0])
                total_D, units, seen = sums.get(domain, (torch.zeros_like(unit), torch.zeros_like(unit), 0))
                sums[domain] = total_D + pooled_BD.sum(0), units + unit * len(pooled_BD), seen + len(pooled_BD)
                pairs, samples = pairs + len(change_MD), samples + len(pooled_BD)
    if not pairs:
        return
    mean_D = torch.stack([total_D for total_D, _, _ in sums.values()]).sum(0) / samples
    noise_DD = noise_DD / pairs
    for total_D, units, seen in sums.values():
        apart_D = total_D / seen - mean_D
        noise_DD = noise_DD + (seen / samples) * torch.outer(apart_D, apart_D) / (units / seen)
    if encoder.alignment is not None:
        noise_DD = noise_DD + SENSORS_WEIGHT * left_by_alignment(encoder, seed)
    value_D, vector_DD = torch.linalg.eigh(noise_DD)
    value_D = value_D.clamp_min(0) + damping * value_D.mean() + 1e-30
    matrix_DD = vector_DD * value_D.rsqrt() @ vector_DD.T
    variance = torch.einsum("ij,jk,ik->", matrix_DD, spread_DD / samples, matrix_DD) / width
    matrix_DD = matrix_DD / variance.clamp_min(1e-30).sqrt()
    stem.set(matrix_DD, -matrix_DD @ mean_D)


def _tokens(encoder: Encoder, part: BatchPart) -> tuple[Tensor, Tensor]:
    patches = encoder.prepare(part.x_BHWC, part.bands, part.mask_BHW)
    tokens_BND = encoder.generated(patches).double()
    if encoder.alignment is not None:
        tokens_BND = encoder.alignment(encoder, patches.bands, tokens_BND)
    return tokens_BND, patches.token_mask_BN


@torch.no_grad()
def left_by_alignment(encoder: Encoder, seed: int) -> Tensor:
    """Covariance ``[D, D]`` (float64) of a spectrum's aligned stem tokens about those of the ideal sensor.

    Over the encoder's library and sensors drawn at random, in units of the spread of the library's spectra.
    """
    alignment, library = encoder.alignment, encoder.library
    assert alignment is not None and library is not None
    rng = np.random.default_rng([seed, 5])
    goal_LD = alignment.ideal_tokens(encoder)
    found_DD = torch.zeros(2 * goal_LD.shape[1:], dtype=torch.float64, device=encoder.device)
    for _ in range(SENSORS):
        bands = draw_sensor(library.low_nm, library.high_nm, rng)
        quantity = int(rng.choice(np.unique(library.quantity_L)))
        sensor = Sensor(bands, QUANTITIES[quantity] if quantity >= 0 else None)
        tensors = BandTensors.from_sensors(sensor).to(encoder.device)
        tokens_LD = alignment(encoder, tensors, stem_tokens(encoder, library.seen_through(bands), tensors)[None])[0]
        mine_L = torch.from_numpy(library.quantity_L == quantity).to(encoder.device)
        apart_MD = (tokens_LD - goal_LD)[mine_L]
        found_DD += apart_MD.T @ apart_MD / len(apart_MD)
    return found_DD / SENSORS / (goal_LD - goal_LD.mean(0)).square().mean().clamp_min(1e-30)
