"""From an encoder's tokens to one vector a sample: which layers, and which poolings of each.

Shape suffixes: B batch, N tokens, D feature width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from specfm.errors import UsageError

POOLINGS: tuple[str, ...] = ("mean", "centre", "similar", "pixel", "class", "concat")
LIKENESS = 0.5  # deviation of the weights of "similar", in the median distance of a window
PARTS: dict[str, tuple[str, ...]] = {"concat": ("mean", "centre")}


def pooling_parts(pooling: str) -> tuple[str, ...]:
    """The poolings that are put beside each other: "concat" is "mean+centre", any others are joined by ``+``.

    Raises:
        UsageError: an unknown or repeated one.
    """
    parts = PARTS.get(pooling, tuple(pooling.split("+")))
    for part in parts:
        if part not in POOLINGS or part in PARTS:
            raise UsageError(f"unknown pooling {part!r}; one of {', '.join(POOLINGS)}, or several as in mean+class")
    if len(set(parts)) < len(parts):
        raise UsageError(f"pooling {pooling!r} names a part twice")
    return parts


def pool(features: Any, pooling: str, window: int, patch: int) -> Any:
    """Pool an encoder's output to one vector a sample.

    Args:
        features: ``tokens_BND`` with ``token_mask_BN``, ``pooled_BD`` (mean over valid tokens) and ``grid_hw`` of its
            one part; ``class_BD`` where the trunk has a class token, ``pixel_BQD`` with ``pixel_mask_BQ`` where it has
            pixel tokens.
        pooling: "mean", "centre" (the token that holds the labelled pixel), "pixel" (that of the labelled pixel alone),
            "similar" (the mean of the tokens like that one, :func:`similar`), "class", or several joined by ``+``;
            "concat" is "mean+centre". Where nothing is valid in the middle, as of
            a ring seen whole, the mean stands for the centre and for the pixel.
        window: window side, pixels.
        patch: patch side, pixels.

    Raises:
        UsageError: "class" of a trunk without a class token (specfm's own have none), "pixel" of one without that.
    """
    import torch

    found = []
    for part in pooling_parts(pooling):
        if part == "mean":
            found.append(features.pooled_BD)
        elif part in ("centre", "similar"):
            row = (window // 2) // patch
            _, columns = features.grid_hw[0]  # one part, one grid
            middle, tokens_BND, mask_BN = row * columns + row, features.tokens_BND, features.token_mask_BN
            chosen_BD = tokens_BND[:, middle] if part == "centre" else similar(tokens_BND, mask_BN, middle)
            found.append(torch.where(mask_BN[:, middle, None], chosen_BD, features.pooled_BD))
        elif part == "pixel":
            pixel_BD = pixel_tokens(features)[:, 0]
            found.append(torch.where(features.pixel_mask_BQ[:, :1], pixel_BD, features.pooled_BD))
        else:
            class_BD = getattr(features, "class_BD", None)
            if class_BD is None:
                raise UsageError(
                    "this encoder has no class token, as no encoder of specfm has; use --pooling mean, centre or concat"
                )
            found.append(class_BD)
    return found[0] if len(found) == 1 else torch.cat(found, dim=-1)


def similar(tokens_BND: Any, mask_BN: Any, middle: int) -> Any:
    """Mean of a window's tokens, each weighted by how like the middle one it is, ``[B, D]``.

    Non-local means (Buades et al., CVPR 2005) over the window: weight ``exp(-2 d / m)``, d the squared distance to the
    middle token, m the median of those of the others. Noise is averaged out where the ground goes on, and less so where
    it ends; the middle token counts most. Nothing is fitted, and a scale of all tokens changes no weight.
    """
    import torch

    tokens_BND = torch.where(mask_BN[..., None], tokens_BND, 0.0)
    apart_BN = (tokens_BND - tokens_BND[:, middle, None]).square().sum(-1)
    others_BN = torch.where(mask_BN, apart_BN, torch.nan)
    others_BN = torch.cat([others_BN[:, :middle], others_BN[:, middle + 1 :]], dim=1)
    if not others_BN.shape[1]:
        return tokens_BND[:, middle]
    usual_B1 = others_BN.nanmedian(1, keepdim=True).values
    # alone in its window, or among copies of itself, it is what it is
    usual_B1 = torch.where(usual_B1 > 0, usual_B1, 1.0)
    weight_BN = torch.where(mask_BN, torch.exp(-apart_BN / (2 * LIKENESS**2 * usual_B1)), 0.0)
    weight_BN = weight_BN / weight_BN.sum(1, keepdim=True).clamp_min(1e-12)
    return torch.einsum("bn,bnd->bd", weight_BN, tokens_BND)


def pixel_tokens(features: Any) -> Any:
    """``pixel_BQD`` of an encoder's output.

    Raises:
        UsageError: it has none.
    """
    pixel_BQD = getattr(features, "pixel_BQD", None)
    if pixel_BQD is None:
        raise UsageError(
            "this encoder has no token of single pixels; use another --pooling, or pretrain one with "
            "model.options.pixel=true"
        )
    return pixel_BQD


def chosen_layers(encoder: Any, layers: Sequence[int]) -> tuple[int, ...]:
    """Block numbers counted from 0, rising; negative ones count from the end as in timm.

    Raises:
        UsageError: the encoder cannot give intermediate layers, or has no such block.
    """
    if not hasattr(encoder, "get_intermediate_layers"):
        raise UsageError("this encoder gives no intermediate layers; leave --layers out")
    depth = len(encoder.blocks)
    for layer in layers:
        if not -depth <= layer < depth:
            raise UsageError(
                f"--layers {layer}: the encoder has blocks 0 to {depth - 1} (or -1 to -{depth} from the end)"
            )
    found = tuple(sorted({layer % depth for layer in layers}))
    if len(found) < len(layers):
        raise UsageError("--layers names a block twice")
    return found


def encode(
    encoder: Any, x_BHWC: Any, sensor: Any, mask_BHW: Any, pooling: str, window: int, layers: Sequence[int] = ()
) -> Any:
    """One vector a window: the poolings of every chosen layer beside each other (no layers = the encoder's output)."""
    import torch

    patch = int(encoder.patch_size)
    if not layers:
        return pool(encoder(x_BHWC, sensor, mask_BHW), pooling, window, patch)
    outputs = encoder.get_intermediate_layers(x_BHWC, sensor, mask_BHW, n=chosen_layers(encoder, layers))
    return torch.cat([pool(output, pooling, window, patch) for output in outputs], dim=-1)
