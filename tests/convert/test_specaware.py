"""SpecAware end to end: published names into our modules, and the loss of an independent transcription of the paper.

Shapes: B samples, N tokens, C bands, P pixels of a patch, D width, W decoder width.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

import specfm
from pretrain import setup
from pretrain.config import PretrainConfig
from pretrain.objectives.base import MicroBatch
from pretrain.objectives.masked import Masked
from pretrain.pairs.pairing import Pairs
from specfm import Sensor, SpecfmError, UsageError, cli
from specfm.batch import Batch
from specfm.config import load_config
from specfm.convert.specaware import convert_specaware
from specfm.models.embeddings.specaware import ATTRIBUTES
from tests.parity.test_specaware import DIM, GRID, PATCH, RANK, SIDE, published_state, textbook
from tests.pretrain.samples import part
from tests.properties.cases import cube

DEPTH, WIDTH, DECODER_DEPTH, HEADS, CODE = 2, 32, 1, 16, 128


def whole_state(decoder: bool = True) -> dict[str, Tensor]:
    """The published names and shapes for these sizes, with random values."""
    full = {f"patch_embed.{name}": tensor for name, tensor in published_state().items()}
    generator = torch.Generator().manual_seed(3)

    def add(name: str, *shape: int, bias: bool = True, scale: float = 0.2) -> None:
        full[f"{name}.weight"] = torch.randn(shape, generator=generator) * scale
        if bias:
            full[f"{name}.bias"] = torch.randn(shape[:1], generator=generator) * scale

    def block(name: str, width: int) -> None:
        for norm in ("norm1", "norm2"):
            add(f"{name}.{norm}", width)
        for layer, out, into in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", 4 * width, width),
            ("mlp.fc2", width, 4 * width),
        ):
            add(f"{name}.{layer}", out, into)

    full["cls_token"] = torch.randn(1, 1, DIM, generator=generator)
    for i in range(DEPTH):
        block(f"blocks.{i}", DIM)
    add("norm", DIM, scale=1.0)
    if not decoder:
        return full
    full["mask_token"] = torch.randn(1, 1, WIDTH, generator=generator)
    add("decoder_embed", WIDTH, DIM)
    for i in range(DECODER_DEPTH):
        block(f"decoder_blocks.{i}", WIDTH)
    add("decoder_norm", WIDTH, scale=1.0)
    for name, out in (("query", 64), ("key", 64), ("value", WIDTH)):
        add(f"decoder_pred.x_attention_pool.{name}_proj", out, WIDTH, bias=False)
    add("decoder_pred.x_feature_extractor.0", CODE, WIDTH)
    add("decoder_pred.x_feature_extractor.2", CODE, CODE)
    fusion, matrix = "decoder_pred.feature_fusion", "decoder_pred.matrix_generator"
    for name, into in (("modal1_proj", CODE), ("modal2_proj", CODE), ("fusion.0", 2 * CODE)):
        add(f"{fusion}.{name}", CODE, into)
    add(f"{fusion}.fusion.1", CODE)
    for name, out in (("u", PATCH**2 * RANK), ("v", RANK * WIDTH)):
        add(f"{matrix}.{name}_generator.0", CODE)
        add(f"{matrix}.{name}_generator.1", CODE, CODE)
        add(f"{matrix}.{name}_generator.4", CODE // 2, CODE)
        add(f"{matrix}.{name}_generator.6", out, CODE // 2)
    add(f"{matrix}.bias_generator.0", CODE)
    add(f"{matrix}.bias_generator.1", CODE // 2, CODE)
    add(f"{matrix}.bias_generator.3", PATCH**2, CODE // 2)
    return full


def textbook_loss(
    s: dict[str, Tensor], tokens_BND: Tensor, code_CE: Tensor, keep_BK: Tensor, x_BNCP: Tensor, gsd_m: float
) -> tuple[Tensor, Tensor]:
    """Angle and Charbonnier terms of the paper, one step per line."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ s[f"{name}.weight"].T + s.get(f"{name}.bias", torch.zeros(()))

    def norm(name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), s[f"{name}.weight"], s[f"{name}.bias"], eps)

    def block(name: str, x: Tensor, heads: int) -> Tensor:
        qkv = linear(f"{name}.attn.qkv", norm(f"{name}.norm1", x, 1e-6)).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in qkv)
        mixed = ((q @ k.mT) / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + linear(f"{name}.attn.proj", mixed.transpose(1, 2).flatten(2))
        return x + linear(f"{name}.mlp.fc2", F.gelu(linear(f"{name}.mlp.fc1", norm(f"{name}.norm2", x, 1e-6))))

    def positions(width: int) -> Tensor:
        """Of the class token (0) and of all tokens: columns first, then rows, in metres."""
        side, rows = SIDE // PATCH, [torch.zeros(width)]
        omega = [10_000.0 ** -(i / (width / 4)) for i in range(width // 4)]
        for row in range(side):
            for col in range(side):
                values: list[float] = []
                for place in (col * gsd_m, row * gsd_m):
                    values += [math.sin(place * o) for o in omega] + [math.cos(place * o) for o in omega]
                rows.append(torch.tensor(values))
        return torch.stack(rows)

    batch = len(tokens_BND)
    place = positions(DIM)
    x = tokens_BND + place[1:]
    x = torch.stack([x[b, keep_BK[b]] for b in range(batch)])
    x = torch.cat([(s["cls_token"] + place[:1]).expand(batch, -1, -1), x], 1)
    for i in range(DEPTH):
        x = block(f"blocks.{i}", x, 1)
    x = linear("decoder_embed", norm("norm", x, 1e-6))
    z = s["mask_token"].repeat(batch, 1 + tokens_BND.shape[1], 1)
    masked = torch.ones(batch, tokens_BND.shape[1], dtype=torch.bool)
    for b in range(batch):
        z[b, 0] = x[b, 0]
        for k, n in enumerate(keep_BK[b].tolist()):
            z[b, 1 + n] = x[b, 1 + k]
            masked[b, n] = False
    z = z + positions(WIDTH)
    for i in range(DECODER_DEPTH):
        z = block(f"decoder_blocks.{i}", z, HEADS)
    z = norm("decoder_norm", z, 1e-6)

    p = "decoder_pred"
    query = linear(f"{p}.x_attention_pool.query_proj", z.mean(1, keepdim=True))
    weight = (query @ linear(f"{p}.x_attention_pool.key_proj", z).mT / 8).softmax(-1)
    context = (weight @ linear(f"{p}.x_attention_pool.value_proj", z))[:, 0]
    seen = linear(f"{p}.x_feature_extractor.2", F.gelu(linear(f"{p}.x_feature_extractor.0", context)))
    seen = seen[:, None].expand(-1, len(code_CE), -1)
    first = linear(f"{p}.feature_fusion.modal1_proj", code_CE.expand(batch, -1, -1))
    second = linear(f"{p}.feature_fusion.modal2_proj", seen)
    both = linear(f"{p}.feature_fusion.fusion.0", torch.cat([first, second], -1))
    g = first + F.gelu(norm(f"{p}.feature_fusion.fusion.1", both)) + seen
    m = f"{p}.matrix_generator"

    def generate(name: str) -> Tensor:
        h = F.gelu(linear(f"{name}.4", F.gelu(linear(f"{name}.1", norm(f"{name}.0", g)))))
        return linear(f"{name}.6", h)

    u = generate(f"{m}.u_generator").unflatten(-1, (PATCH**2, RANK))
    v = generate(f"{m}.v_generator").unflatten(-1, (RANK, WIDTH))
    bias = linear(f"{m}.bias_generator.3", F.gelu(linear(f"{m}.bias_generator.1", norm(f"{m}.bias_generator.0", g))))
    pred_BNCP = torch.einsum("bcpr,bcrw,bnw->bncp", u, v, z[:, 1:]) + bias[:, None]
    angle = 1 - F.cosine_similarity(pred_BNCP, x_BNCP, dim=2)
    charbonnier = (((pred_BNCP - x_BNCP) ** 2 + 1).sqrt() - 1).mean(2)
    return angle[masked].mean(), charbonnier[masked].mean()


def config_of(init_from: Path) -> PretrainConfig:
    """specaware.yaml in these sizes."""
    decoder = {"width": WIDTH, "depth": DECODER_DEPTH, "heads": HEADS, "rank": RANK, "code_width": CODE}
    return load_config(
        "pretrain/specaware.yaml",
        PretrainConfig,
        [
            "data.shards=none", "out=none", f"init_from={init_from}", f"views.crop={SIDE}", "views.dihedral=false",
            f"model.patch_size={PATCH}", "data.global_batch=64", "optim.micro_batch=null",
            *(f"model.options.{k}={v}" for k, v in
              {"dim": DIM, "depth": DEPTH, "heads": 1, "image_size": SIDE, "rank": RANK}.items()),
            *(f"objective.masked.decoder.{k}={v}" for k, v in decoder.items()), "objective.masked.window_steps=0",
            "objective.masked.window_start=1",
        ],
    )  # fmt: skip


@pytest.mark.parametrize("gsd_m", [None, 3.0])
def test_the_loss_of_converted_weights_is_that_of_the_formulas(tmp_path: Path, gsd_m: float | None) -> None:
    state = whole_state()
    vectors = {key: torch.randn(384, generator=torch.Generator().manual_seed(i)) for i, key in enumerate(ATTRIBUTES)}
    save_file(state, tmp_path / "published.safetensors")
    save_file(vectors, tmp_path / "vectors.safetensors")
    convert_specaware(tmp_path / "published.safetensors", tmp_path / "model", tmp_path / "vectors.safetensors")
    config = config_of(tmp_path / "model")
    modules, objectives = setup.make_modules(config)
    modules.eval()  # no dropout
    encoder, objective = modules["encoder"], objectives["masked"]
    assert isinstance(objective, Masked)

    sensor = Sensor(GRID, name="aviris_ng", level="L2", gsd_m=gsd_m)
    batch = Batch((part(cube(GRID, batch=3, side=SIDE), sensor),))
    found, figures = objective.separate(MicroBatch(Pairs.of(batch), encoder, objective.around, 7, 1.0))
    hidden = objective.hide(batch.parts[0], 7, 1.0)
    assert hidden.keep_BK is not None and hidden.keep_BK.shape[1] == (SIDE // PATCH) ** 2 // 4
    x_BNCP = encoder.prepare(batch.parts[0].x_BHWC, sensor).x_BCNP.transpose(1, 2)
    embedding = {k.removeprefix("patch_embed."): v for k, v in state.items() if k.startswith("patch_embed.")}
    tokens_BND = textbook(embedding, vectors, x_BNCP, ("avng", "L2"))
    code_CE = encoder.embedding.band_codes(hidden.bands)[0]
    angle, charbonnier = textbook_loss(state, tokens_BND, code_CE, hidden.keep_BK, x_BNCP, gsd_m or 10.0)
    assert 0.05 < angle < 1.95 and charbonnier > 1e-3
    assert figures["masked/angle"].item() == pytest.approx(angle.item(), rel=1e-4)
    assert figures["masked/charbonnier"].item() == pytest.approx(charbonnier.item(), rel=1e-4)
    assert found.item() == pytest.approx((angle + 2 * charbonnier).item(), rel=1e-4)


def test_the_command_writes_a_release_that_loads(tmp_path: Path) -> None:
    save_file(whole_state(decoder=False), tmp_path / "encoder.safetensors")
    arguments = ["convert", "specaware", str(tmp_path / "encoder.safetensors"), "--out", str(tmp_path / "model")]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert "2 blocks of width 24, patches of 4 px, windows of 16 px" in result.output
    assert "no decoder in the file" in result.output and not (tmp_path / "model" / "heads.safetensors").exists()
    encoder = specfm.load(tmp_path / "model")
    features = encoder(cube(GRID, batch=2, side=SIDE), GRID)
    assert features.tokens_BND.shape == (2, 16, DIM) and features.class_BD.shape == (2, DIM)
    assert encoder.card["source"].startswith("SpecAware")


def test_what_does_not_fit_is_listed_and_nothing_is_written(tmp_path: Path) -> None:
    state = whole_state()
    state["mystery"] = state.pop("decoder_blocks.0.attn.proj.bias")
    state["decoder_norm.bias"] = torch.zeros(7)
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(SpecfmError) as caught:
        convert_specaware(tmp_path / "odd.safetensors", tmp_path / "model")
    for text in ("missing decoder_blocks.0.attn.proj.bias", "unknown mystery", "decoder_norm.bias is (7,), here (32,)"):
        assert text in str(caught.value)
    assert not (tmp_path / "model").exists()
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(SpecfmError, match=r"not SpecAware's published weights: norm.weight is missing"):
        convert_specaware(tmp_path / "other.safetensors", tmp_path / "model")


def test_a_pickle_is_refused_with_the_way_out(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["convert", "specaware", "a/b.pth", "--out", str(tmp_path / "model")])
    assert result.exit_code == 2
    text = re.sub(r"\s+", " ", result.stderr)
    assert "pickles are never read" in text and "torch.load('b.pth'" in text and "'b.safetensors')" in text


def test_a_decoder_of_another_size_is_refused(tmp_path: Path) -> None:
    save_file(whole_state(), tmp_path / "published.safetensors")
    convert_specaware(tmp_path / "published.safetensors", tmp_path / "model")
    config = config_of(tmp_path / "model")
    masked = config.objective.masked
    assert masked is not None
    smaller = masked.model_copy(update={"decoder": masked.decoder.model_copy(update={"width": 16})})
    config = config.model_copy(update={"objective": config.objective.model_copy(update={"masked": smaller})})
    with pytest.raises(UsageError, match=r"the head masked in .*model differs .*proj.bias is \(32,\), here \(16,\)"):
        setup.make_modules(config)
