"""SpecAware's embedding: an independent transcription of the paper's formulas, and its published names.

Shapes: B samples, C bands, N tokens, P pixels of a patch, E = 128 code width, D token width, R rank.
"""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from specfm import BandGrid, Sensor, SpecfmError, create_encoder
from specfm.batch import BandTensors
from specfm.models.embeddings.published import load_published, published_name
from specfm.models.embeddings.specaware import ATTRIBUTES, SpecAwareEmbedding, _attributes
from tests.properties.cases import comb, cube, difference

GRID = BandGrid([450, 600, 850, 1650, 2200], [9, 10, 11, 12, 14])
DIM, PATCH, SIDE, RANK = 24, 4, 16, 6


def published_state(seed: int = 0) -> dict[str, Tensor]:
    """A state dict with the published names and shapes for these sizes, and random values."""
    tokens, pixels, e = (SIDE // PATCH) ** 2, PATCH**2, 128
    shapes: dict[str, tuple[int, ...]] = {
        "spectral_embedding.fusion_weights": (2,),
        "spectral_embedding.fwhm_encoder.mlp.0": (64, 1),
        "spectral_embedding.fwhm_encoder.mlp.2": (e, 64),
        "spectral_embedding.attribute_encoder.fc": (64, 384),
        "spectral_embedding.spectral_enhancement_mlp.mlp.0": (256, e),
        "spectral_embedding.spectral_enhancement_mlp.mlp.2": (e, 256),
        "spectral_aware_transformer.transformer_encoder.layers.0.self_attn.out_proj": (e, e),
        "spectral_aware_transformer.transformer_encoder.layers.0.linear1": (e, e),
        "spectral_aware_transformer.transformer_encoder.layers.0.linear2": (e, e),
        "spectral_aware_transformer.transformer_encoder.layers.0.norm1": (e,),
        "spectral_aware_transformer.transformer_encoder.layers.0.norm2": (e,),
        "content_feature_extractor.avg_feature_encoder.0": (tokens // 4, tokens),
        "content_feature_extractor.avg_feature_encoder.2": (e, tokens // 4),
        "content_feature_extractor.max_feature_encoder.0": (tokens // 4, tokens),
        "content_feature_extractor.max_feature_encoder.2": (e, tokens // 4),
        "content_feature_extractor.feature_fusion.0": (256, 256),
        "content_feature_extractor.feature_fusion.3": (e, 256),
        "content_feature_extractor.layer_norm": (e,),
        "matrix_generator.bias_generator.0": (e,),
        "matrix_generator.bias_generator.1": (64, e),
        "matrix_generator.bias_generator.3": (DIM, 64),
        "scaler": (),
    }
    for fusion in ("spectral_embedding.cross_modal_fusion", "feature_fusion"):
        shapes |= {f"{fusion}.modal1_proj": (e, e), f"{fusion}.modal2_proj": (e, e)}
        shapes |= {f"{fusion}.fusion.0": (e, 256), f"{fusion}.fusion.1": (e,)}
    for part, out in (("u_generator", DIM * RANK), ("v_generator", RANK * pixels)):
        name = f"matrix_generator.{part}"
        shapes |= {f"{name}.0": (e,), f"{name}.1": (e, e), f"{name}.4": (64, e), f"{name}.6": (out, 64)}
    attention = "spectral_aware_transformer.transformer_encoder.layers.0.self_attn"
    full: dict[str, tuple[int, ...]] = {f"{attention}.in_proj_weight": (384, e), f"{attention}.in_proj_bias": (384,)}
    for name, shape in shapes.items():
        if name.endswith(("fusion_weights", "scaler")):
            full[name] = shape
        else:
            full |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in full.items()}


def textbook(s: dict[str, Tensor], vectors: dict[str, Tensor], x_BNCP: Tensor, keys: tuple[str, str]) -> Tensor:
    """tokens_BND from the formulas of the paper and the published weights, one step per line."""

    def linear(name: str, value: Tensor) -> Tensor:
        return value @ s[f"{name}.weight"].T + s[f"{name}.bias"]

    def norm(name: str, value: Tensor) -> Tensor:
        return F.layer_norm(value, (value.shape[-1],), s[f"{name}.weight"], s[f"{name}.bias"])

    def fusion(name: str, a: Tensor, b: Tensor) -> Tensor:
        first, second = linear(f"{name}.modal1_proj", a), linear(f"{name}.modal2_proj", b)
        return first + F.gelu(norm(f"{name}.fusion.1", linear(f"{name}.fusion.0", torch.cat([first, second], -1))))

    def generate(name: str, h: Tensor) -> Tensor:
        h = F.gelu(linear(f"{name}.1", norm(f"{name}.0", h)))
        return linear(f"{name}.6", F.gelu(linear(f"{name}.4", h)))

    lam, fwhm = torch.tensor(GRID.wavelengths_nm), torch.tensor(GRID.fwhm_nm).float()
    period = 350.0 * (2550.0 / 350.0) ** (torch.arange(64, dtype=torch.float64) / 63)
    wave = torch.cat([(2 * math.pi * lam[:, None] / period).sin(), (2 * math.pi * lam[:, None] / period).cos()], 1)
    emb = "spectral_embedding"
    width = linear(f"{emb}.fwhm_encoder.mlp.2", F.gelu(linear(f"{emb}.fwhm_encoder.mlp.0", (fwhm[:, None] - 5) / 10)))
    share = s[f"{emb}.fusion_weights"].softmax(0)
    spectral = share[0] * wave.float() + share[1] * width
    inner = F.gelu(linear(f"{emb}.spectral_enhancement_mlp.mlp.0", spectral))
    spectral = spectral + linear(f"{emb}.spectral_enhancement_mlp.mlp.2", inner)
    attributes = torch.cat([linear(f"{emb}.attribute_encoder.fc", vectors[key]) for key in keys])
    meta = fusion(f"{emb}.cross_modal_fusion", spectral, attributes.expand(len(spectral), -1)) + spectral

    layer = "spectral_aware_transformer.transformer_encoder.layers.0"
    normed = norm(f"{layer}.norm1", meta)
    qkv = normed @ s[f"{layer}.self_attn.in_proj_weight"].T + s[f"{layer}.self_attn.in_proj_bias"]
    q, k, v = (t.unflatten(-1, (4, 32)).transpose(0, 1) for t in qkv.chunk(3, -1))
    mixed = ((q @ k.transpose(1, 2)) / 32**0.5).softmax(-1) @ v
    h = meta + linear(f"{layer}.self_attn.out_proj", mixed.transpose(0, 1).flatten(1))
    h = h + linear(f"{layer}.linear2", F.gelu(linear(f"{layer}.linear1", norm(f"{layer}.norm2", h))))
    meta = meta + h

    pools = {"avg": x_BNCP.mean(-1).transpose(1, 2), "max": x_BNCP.amax(-1).transpose(1, 2)}
    c = "content_feature_extractor"
    both = [
        linear(f"{c}.{key}_feature_encoder.2", F.gelu(linear(f"{c}.{key}_feature_encoder.0", pool)))
        for key, pool in pools.items()
    ]
    content = F.gelu(linear(f"{c}.feature_fusion.0", torch.cat(both, -1)))
    content = norm(f"{c}.layer_norm", linear(f"{c}.feature_fusion.3", content))
    code = fusion("feature_fusion", meta.expand(len(content), -1, -1), content) + meta

    u = generate("matrix_generator.u_generator", code).unflatten(-1, (DIM, RANK))
    v = generate("matrix_generator.v_generator", code).unflatten(-1, (RANK, PATCH**2))
    b = "matrix_generator.bias_generator"
    bias = linear(f"{b}.3", F.gelu(linear(f"{b}.1", norm(f"{b}.0", code.mean(1)))))
    tokens = sum(torch.einsum("bdr,brp,bnp->bnd", u[:, i], v[:, i], x_BNCP[:, :, i]) for i in range(len(GRID)))
    return s["scaler"] * (tokens + bias[:, None])


def small() -> SpecAwareEmbedding:
    """Built for the sizes above, dropout off."""
    encoder = create_encoder("nano", "specaware", PATCH, dim=DIM, depth=0, heads=4, image_size=SIDE, rank=RANK)
    return encoder.embedding.eval()


@pytest.mark.parametrize("form", ("forward", "reference"))
@pytest.mark.parametrize(
    ("sensor", "keys"),
    (
        (Sensor(GRID, name="aviris_ng", level="L2"), ("avng", "L2")),
        (Sensor(GRID, quantity="radiance"), ("others", "L1")),
    ),
)
def test_tokens_are_those_of_the_formulas(form: str, sensor: Sensor, keys: tuple[str, str]) -> None:
    state, embedding = published_state(), small()
    vectors = {key: torch.randn(384, generator=torch.Generator().manual_seed(i)) for i, key in enumerate(ATTRIBUTES)}
    load_published(embedding, state, vectors)
    x_BHWC = cube(GRID, batch=3, side=SIDE)
    encoder = create_encoder("nano", "specaware", PATCH, dim=DIM, depth=0, heads=4, image_size=SIDE, rank=RANK)
    patches = encoder.prepare(x_BHWC, sensor)
    expected = textbook(state, vectors, patches.x_BCNP.transpose(1, 2), keys)
    assert expected.abs().mean() > 1e-3
    assert difference(getattr(embedding, form)(patches), expected) < 1e-5


def test_published_names_cover_every_parameter_once() -> None:
    names = [published_name(name) for name, _ in small().named_parameters()]
    assert sorted(names) == sorted(published_state())
    with pytest.raises(KeyError):
        published_name("something.else")


def test_the_whole_model_may_be_given() -> None:
    bare, whole = small(), small()
    state = published_state()
    load_published(bare, state)
    load_published(whole, {f"patch_embed.{k}": v for k, v in state.items()} | {"cls_token": torch.zeros(1, 1, DIM)})
    assert all(torch.equal(a, b) for a, b in zip(bare.parameters(), whole.parameters(), strict=True))


def test_what_does_not_fit_is_listed_and_nothing_is_loaded() -> None:
    embedding, state = small(), published_state()
    before = [p.clone() for p in embedding.parameters()]
    state["mystery"] = state.pop("scaler")
    state["matrix_generator.u_generator.6.bias"] = torch.zeros(7)
    with pytest.raises(SpecfmError) as caught:
        load_published(embedding, state)
    for part in ("missing scaler", "unknown mystery", "u_generator.6.bias is (7,), here (144,)", "3 names"):
        assert part in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(before, embedding.parameters(), strict=True))


def test_missing_sentence_vectors_are_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_published(small(), published_state())
    assert "sentence vectors" in caplog.text
    with pytest.raises(SpecfmError, match="needed for avc, avng"):
        load_published(small(), published_state(), {"L1": torch.zeros(384)})


@pytest.mark.parametrize(
    ("name", "level", "quantity", "expected"),
    (
        ("AVIRIS-NG", "L1", None, ("avng", "L1")),
        ("aviris_3", "L2", None, ("av3", "L2")),
        ("AVIRIS classic", None, "surface_reflectance", ("avc", "L2")),
        ("EnMAP", None, "radiance", ("others", "L1")),
        (None, None, None, ("others", "L1")),
        (None, "raw", "surface_reflectance", ("others", "L1")),
    ),
)
def test_attributes_in_the_closed_vocabulary(
    name: str | None, level: str | None, quantity: str | None, expected: tuple[str, str]
) -> None:
    sensor = Sensor(comb(3), quantity=quantity, level=level, name=name)
    assert _attributes(BandTensors.from_sensors(sensor)) == [expected]
