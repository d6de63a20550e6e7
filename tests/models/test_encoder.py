"""The encoder around the embedding: sizes, options, features, refusals.

Shapes: B samples, H W pixels, C bands, N tokens, D width.
"""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
import torch

from specfm import BandGrid, BandTensors, Sensor, SpecfmError, UsageError, create_encoder
from specfm.models import SIZES
from specfm.models.embeddings.codes import _asinh
from specfm.models.registry import EMBEDDINGS, TRUNK
from tests.pretrain.samples import random_batch
from tests.properties.cases import NAMES, build, comb, cube, difference, options_for

GRID = comb(9)


@pytest.mark.parametrize("size", SIZES)
def test_sizes(size: str) -> None:
    encoder = create_encoder(size, patch_size=4, depth=1)  # one block of each: the large one has 24
    assert SIZES[size].depth > 1 and len(encoder.blocks) == 1
    assert encoder.blocks[0].attn.num_heads == SIZES[size].heads
    features = encoder(cube(GRID), GRID)
    assert features.pooled_BD.shape == (2, encoder.num_features) == (2, SIZES[size].dim)


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        ({"size": "huge"}, "unknown encoder size 'huge'.*nano"),
        ({"embedding": "cnn"}, "unknown embedding 'cnn'.*hyper"),
        ({"patch_size": 0}, "patch_size must be a whole number of at least 1, got 0"),
        ({"patch_size": 2.5}, "patch_size must be a whole number"),
        ({"level": "batch"}, "level must be one of patch, pixel, sample and none, got 'batch'"),
        ({"dim": 190}, "dim must be a multiple of 4, got 190"),
        ({"heads": 5}, "dim 192 is not a multiple of its 5 heads"),
        ({"depth": -1}, "depth must be a whole number of at least 0"),
        ({"heads": None}, "heads must be a whole number of at least 1, got None"),
        ({"depth": "4"}, "depth must be a whole number.*got '4'"),
        ({"heads": True}, "heads must be a whole number"),
        ({"rank": 0}, "rank must be a whole number of at least 1, got 0"),
        ({"hidden": 1}, "hidden must be a whole number of at least 2"),
        ({"code_width": 130}, "code_width must be a multiple of 4"),
        ({"drop_path": 1}, "drop_path must be a share"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio must be a number above 0"),
        ({"aligned": "no"}, "aligned must be true or false"),
        ({"trunk": "cnn"}, "trunk must be one of stem and mae, got 'cnn'"),
        ({"embedding": "basis", "hats": 1}, "hats must be a whole number of at least 2"),
        ({"embedding": "specaware", "image_size": 4}, "image_size 4 is smaller than the patch of 8 pixels"),
        ({"embedding": "fixed", "grid": {}}, "does not take these options.*wavelengths_nm"),
        ({"wide": True}, "does not take these options.*wide"),
        ({"embedding": "fixed"}, "channels=COUNT or grid="),
        ({"embedding": "fixed", "channels": 3, "grid": GRID.to_dict()}, "channels=COUNT or grid="),
    ),
)
def test_creation_refusals(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create_encoder(**arguments)


def test_options_may_be_numpy_numbers() -> None:
    given = {"patch_size": np.int32(4), "dim": np.int64(64), "heads": np.int64(2), "drop_path": np.float32(0.25)}
    plain = {"patch_size": 4, "dim": 64, "heads": 2, "drop_path": 0.25}
    encoder = create_encoder(depth=1, **given)
    assert json.loads(json.dumps(encoder.config)) == create_encoder(depth=1, **plain).config


@pytest.mark.parametrize("name", NAMES)
def test_config_is_json_and_rebuilds_the_encoder(name: str) -> None:
    encoder = build(name, GRID)
    again = create_encoder(**json.loads(json.dumps(encoder.config)))
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in encoder.state_dict().items()}


@pytest.mark.parametrize("name", NAMES)
def test_config_says_every_option_so_that_defaults_may_change(name: str) -> None:
    encoder = build(name, GRID)
    options = {*inspect.signature(EMBEDDINGS[name.split("-")[0]]).parameters, *TRUNK}
    assert set(encoder.config) == options | {"size", "embedding"}
    assert encoder.config["depth"] == len(encoder.blocks) and encoder.config["dim"] == encoder.num_features


@pytest.mark.parametrize("name", NAMES)
def test_seeding_repeats_the_weights(name: str) -> None:
    one, two = build(name, GRID), build(name, GRID)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_features_and_their_ways_in() -> None:
    encoder, x_BHWC = build("hyper", GRID), cube(GRID)
    features = encoder(x_BHWC, GRID)
    assert features.tokens_BND.shape == (2, 16, 32) and features.pooled_BD.shape == (2, 32)
    assert features.grid_hw == ((4, 4),) and features.token_mask_BN.all()
    torch.testing.assert_close(features.pooled_BD, features.tokens_BND.mean(1))
    for bands in (Sensor(GRID), [GRID, Sensor(GRID)], BandTensors.from_sensors(GRID)):
        assert difference(encoder(x_BHWC, bands).tokens_BND, features.tokens_BND) < 1e-5
    assert torch.equal(encoder.forward_features(x_BHWC, GRID), features.tokens_BND)
    assert torch.equal(encoder(x_BHWC.numpy(), GRID).tokens_BND, features.tokens_BND)
    at_2 = encoder(x_BHWC, GRID, level_B=torch.full((2,), 2.0)).tokens_BND
    assert torch.equal(encoder(x_BHWC.tolist(), GRID, level_B=np.full(2, 2.0)).tokens_BND, at_2)
    assert encoder(torch.ones(1, 4, 4, 13), "sentinel2").tokens_BND.shape == (1, 4, 32)


@pytest.mark.parametrize("dtype", (np.uint8, np.int16, np.uint16, np.int32, np.float64))
def test_any_stored_type(dtype: type) -> None:
    encoder, x = build("hyper", GRID), (cube(GRID).numpy() * 200).astype(dtype)
    assert difference(encoder(x, GRID).tokens_BND, encoder(x.astype(np.float32), GRID).tokens_BND) == 0
    foreign = x.astype(x.dtype.newbyteorder(">"))[:, ::-1]
    assert torch.equal(encoder(foreign, GRID).tokens_BND, encoder(x[:, ::-1].copy(), GRID).tokens_BND)


def test_intermediate_layers() -> None:
    encoder, x_BHWC = build("hyper", GRID, depth=3), cube(GRID)
    last = encoder.get_intermediate_layers(x_BHWC, GRID, n=2)
    listed = encoder.get_intermediate_layers(x_BHWC, GRID, n=(0, 2), norm=False)
    assert len(last) == len(listed) == 2
    assert torch.equal(last[1].tokens_BND, encoder(x_BHWC, GRID).tokens_BND)
    torch.testing.assert_close(encoder.norm(listed[1].tokens_BND), last[1].tokens_BND)
    assert difference(listed[0].tokens_BND, listed[1].tokens_BND) > 1e-3


def test_intermediate_layers_come_in_the_order_asked() -> None:
    encoder, x_BHWC = build("hyper", GRID, depth=3), cube(GRID)
    rising = [f.tokens_BND for f in encoder.get_intermediate_layers(x_BHWC, GRID, n=(0, 1, 2))]
    asked = encoder.get_intermediate_layers(x_BHWC, GRID, n=[2, -3, 1, 2])
    assert len(asked) == 4
    assert all(torch.equal(f.tokens_BND, rising[i]) for f, i in zip(asked, (2, 0, 1, 2), strict=True))


@pytest.mark.parametrize("n", ([3], [0, -4], [9], 0, 4, 9, -1, []))
def test_intermediate_layers_that_do_not_exist_are_refused(n: int | list[int]) -> None:
    with pytest.raises(UsageError, match="has blocks 0 to 2 "):
        build("hyper", GRID, depth=3).get_intermediate_layers(cube(GRID), GRID, n=n)


def test_gradient_checkpointing_changes_nothing() -> None:
    encoder, x_BHWC = build("hyper", GRID, depth=2), cube(GRID)

    def gradients() -> torch.Tensor:
        encoder.zero_grad()
        encoder(x_BHWC, GRID).pooled_BD.square().sum().backward()
        return torch.cat([p.grad.flatten() for p in encoder.parameters()])

    plain = gradients()
    encoder.set_grad_checkpointing()
    assert difference(gradients(), plain) < 1e-6


@pytest.mark.parametrize(
    ("action", "message"),
    (
        (lambda e, x: e(x), "needs to know the bands"),
        (lambda e, x: e(x[..., :5], GRID), "cube has 5 bands but its metadata describes 9"),
        (lambda e, x: e(torch.cat([x, x], -1), GRID), "cube has 18 bands but its metadata describes 9.*channels=18"),
        (lambda e, x: e(torch.cat([x, x], -1), [GRID, comb(4)]), "cube has 18 bands but its metadata describes 9"),
        (lambda e, x: e(x, BandTensors.from_sensors(comb(4))), "cube has 9 bands but its metadata describes 4"),
        (lambda e, x: e(x, [GRID, GRID, GRID]), "3 band grids given for 2 samples"),
        (lambda e, x: e(x[0], GRID), "expected a cube of shape"),
        (lambda e, x: e(x, GRID, torch.ones(2, 8, 7, dtype=torch.bool)), r"mask has shape \(2, 8, 7\) but the cube is"),
        (lambda e, x: e(x, GRID, level_B=torch.ones(3)), "one level for each of 2 samples"),
        (lambda e, x: e(x.numpy() + 1j, GRID), "array of complex64"),
        (lambda e, x: e(x + 1j, GRID), "tensor of torch.complex64"),
        (lambda e, x: e(x, []), "list of sensors is empty"),
        (lambda e, x: e(x, 3), "got int; wrap wavelengths as specfm.BandGrid"),
        (lambda e, x: e(x[:0], GRID), r"cube of shape \(0, 8, 8, 9\) is empty"),
    ),
)
def test_refusals(action: object, message: str) -> None:
    with pytest.raises(SpecfmError, match=message):
        action(build("hyper", GRID), cube(GRID))


def test_fixed_serves_its_grid_only() -> None:
    by_grid, by_count = build("fixed", GRID), create_encoder("nano", "fixed", 2, channels=9, dim=32, depth=1, heads=4)
    other = BandGrid(GRID.wavelengths_nm + 1)
    assert by_count(cube(other), other).pooled_BD.isfinite().all()
    with pytest.raises(SpecfmError, match="another band grid"):
        by_grid(cube(other), other)
    for encoder in (by_grid, by_count):
        with pytest.raises(SpecfmError, match="built for 9 bands and was given 4"):
            encoder(cube(comb(4)), comb(4))


def test_specaware_refuses_what_the_original_cannot_read() -> None:
    encoder = build("specaware", GRID, side=8)
    with pytest.raises(SpecfmError, match="built for 16 patches and was given 25"):
        encoder(cube(GRID, side=10), GRID)
    thermal = BandGrid([500, 900, 11_000])
    with pytest.raises(SpecfmError, match="350 to 2550 nm"):
        encoder(cube(thermal), thermal)
    usable = BandGrid([500, 900, 11_000], None, [True, True, False])
    assert encoder(cube(usable), usable).pooled_BD.isfinite().all()


def test_unknown_options_reach_the_embedding_only() -> None:
    assert options_for("specaware", GRID)["rank"] == build("specaware", GRID).embedding.rank


def test_asinh_is_that_of_torch() -> None:
    sizes = 10.0 ** torch.arange(-8, 18, 0.25)
    x = torch.cat([sizes, -sizes, torch.zeros(1)])
    exact = torch.asinh(x.double())
    assert ((_asinh(x) - exact).abs() <= 3e-7 * exact.abs()).all()
    assert _asinh(torch.tensor([torch.inf, -torch.inf, 1e30])).isfinite().all()  # no NaN from inf / inf
    leaf = x[x != 0].clamp(-1e4, 1e4).requires_grad_()
    _asinh(leaf).sum().backward()
    torch.testing.assert_close(leaf.grad, (1 + leaf.detach().square()).rsqrt(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("trunk", ["stem", "mae"])
def test_prepared_parts_are_encoded_as_the_batch_is(trunk: str) -> None:
    """And tokens left out after the embedding are those that would not have been given, as far as blocks can tell."""
    encoder = create_encoder("nano", patch_size=3, dim=24, depth=2, heads=2, trunk=trunk, content=False, level="none")
    batch = random_batch()
    prepared = [encoder.prepare(part.x_BHWC, part.bands, part.mask_BHW) for part in batch]
    whole, parts = encoder(batch), encoder(prepared)
    assert torch.equal(whole.tokens_BND, parts.tokens_BND) and parts.grid_hw == ((3, 3), (3, 3))
    assert (parts.class_BD is None) == (trunk == "stem")
    keep_BK = torch.tensor([[4, 0], [8, 1]]).repeat(3, 1)
    some = encoder(prepared, then_keep=[keep_BK, keep_BK])
    assert some.tokens_BND.shape == (12, 2, 24)
    first = batch.parts[0]
    alone = encoder(first.x_BHWC, first.bands, keep_BK=keep_BK)
    torch.testing.assert_close(some.tokens_BND[:6], alone.tokens_BND, rtol=1e-5, atol=1e-5)


def test_positions_from_the_corner_are_in_metres() -> None:
    encoder = create_encoder("nano", patch_size=3, dim=24, depth=1, heads=2, trunk="mae")
    place = torch.tensor([[[0, 0], [0, 2], [1, 0]]])
    found = encoder.positions(place, (3, 3), torch.tensor([5.0]), 24)[0]
    frequency = 10_000.0 ** -(torch.arange(6) / 6)
    ones, zeros = torch.ones(6), torch.zeros(6)
    torch.testing.assert_close(found[0], torch.cat([zeros, ones, zeros, ones]))
    torch.testing.assert_close(found[1], torch.cat([(10 * frequency).sin(), (10 * frequency).cos(), zeros, ones]))
    torch.testing.assert_close(found[2], torch.cat([zeros, ones, (5 * frequency).sin(), (5 * frequency).cos()]))
    unknown = encoder.positions(place, (3, 3), torch.tensor([float("nan")]), 24)
    torch.testing.assert_close(unknown, encoder.positions(place, (3, 3), torch.tensor([10.0]), 24))


@pytest.mark.parametrize(("kind", "near"), [("half", 5e-3), ("bfloat16", 5e-2), ("double", 1e-5)])
def test_the_trunk_in_other_precision_gives_nearly_the_same(kind: str, near: float) -> None:
    """What comes before it stays float32: a whitened stem amplifies rounding."""
    torch.manual_seed(0)
    model = create_encoder("nano", patch_size=3, dim=24, depth=2, heads=2).eval()
    grid = BandGrid(np.linspace(400, 1000, 20), np.full(20, 10.0))
    x_BHWC = torch.rand(3, 9, 9, 20)
    with torch.no_grad():
        before = model(x_BHWC, grid).pooled_BD
        found = getattr(model, kind)()(x_BHWC, grid).pooled_BD
    assert model.stem.weight.dtype == torch.float32 and found.dtype == model.norm.weight.dtype != torch.float32
    assert float((found.double() - before.double()).norm() / before.norm()) < near
    back = model.float()(x_BHWC, grid).pooled_BD
    assert back.dtype == torch.float32
    assert model.to(torch.bfloat16).to("cpu").blocks[0].attn.qkv.weight.dtype == torch.bfloat16


def test_bands_first_and_a_single_sample_are_told_how_to_go_on() -> None:
    model = create_encoder("nano", patch_size=3, dim=24, depth=1, heads=2).eval()
    grid = BandGrid(np.linspace(400, 1000, 20), np.full(20, 10.0))
    with pytest.raises(SpecfmError, match=r"has its 20 bands first; bands go last: x.permute\(0, 2, 3, 1\)"):
        model(torch.rand(3, 20, 9, 9), grid)
    with pytest.raises(SpecfmError, match=r"give one sample as x\[None\]"):
        model(torch.rand(9, 9, 20), grid)


def test_a_call_compiles_into_one_graph() -> None:
    torch.manual_seed(0)
    encoder = create_encoder("nano", patch_size=3, dim=48, depth=1, heads=3).eval()
    x_BHWC = torch.as_tensor(cube(GRID)).float().clone()
    x_BHWC[0, 1, 1] = torch.nan
    with torch.no_grad():  # under inference_mode guards on arrays fail, a fault of PyTorch 2.12
        compiled = torch.compile(encoder, backend="eager", fullgraph=True)(x_BHWC, GRID).pooled_BD
        assert torch.allclose(compiled, encoder(x_BHWC, GRID).pooled_BD, atol=1e-6)
