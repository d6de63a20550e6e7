"""A timm network behind the call of an encoder: bands by wavelength, standardisation, stems that change, releases."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import specfm
from specfm.bands import BandGrid
from specfm.batch import BandTensors, Batch, BatchPart
from specfm.errors import SpecfmError, UsageError
from specfm.models import Backbone, build_encoder, create_backbone
from specfm.models.networks import stem_of

BANDS = BandGrid(np.linspace(450, 900, 10), np.full(10, 50.0), valid=[True] * 9 + [False])
NAMES = {"timm:resnet18": {}, "timm:vit_tiny_patch16_224": {"stride": 3, "options": {"depth": 2}}}


def make(name: str = "timm:test_resnet", bands: BandGrid = BANDS, seed: int = 0, **options: object) -> Backbone:
    torch.manual_seed(seed)
    return create_backbone(name, bands, **options).eval()  # type: ignore[arg-type]


def cube(seed: int = 0, side: int = 9, bands: BandGrid = BANDS) -> torch.Tensor:
    return torch.rand(4, side, side, len(bands), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
def test_features_of_small_windows(name: str) -> None:
    backbone = make(name, **NAMES[name])
    found = backbone(cube(), BANDS)
    rows, cols = found.grid_hw[0]
    assert found.tokens_BND.shape == (4, rows * cols, backbone.num_features)
    assert rows * backbone.patch_size >= 9 > (rows - 1) * backbone.patch_size
    assert torch.allclose(found.pooled_BD, found.tokens_BND.mean(1), atol=1e-5)
    assert torch.equal(backbone.get_intermediate_layers(cube(), BANDS, n=[-1])[0].tokens_BND, found.tokens_BND)


@pytest.mark.parametrize("name", ["timm:test_convnext", "timm:resnet18", "timm:test_efficientnet"])
@pytest.mark.parametrize("side", [1, 3, 5, 7])
def test_windows_smaller_than_what_a_network_halves(name: str, side: int) -> None:
    found = make(name)(cube(side=side), BANDS)
    assert found.tokens_BND.shape[1] == 1 and found.tokens_BND.isfinite().all() and found.token_mask_BN.all()


@pytest.mark.parametrize("name", ["timm:resnet18", "timm:test_convnext"])
def test_one_number_a_channel_is_no_batch_to_train_batch_norm_by(name: str) -> None:
    backbone = make(name).train()
    backbone(cube(side=3), BANDS)
    one = cube(side=3)[:1]
    if name == "timm:test_convnext":  # layer norm
        assert backbone(one, BANDS).pooled_BD.isfinite().all()
        return
    with pytest.raises(UsageError, match="batch norm.*3x3 pixels.*stride is.*several windows at a time"):
        backbone(one, BANDS)
    assert backbone(cube(side=40)[:1], BANDS).pooled_BD.isfinite().all()
    assert backbone.eval()(one, BANDS).pooled_BD.isfinite().all()


def test_bands_are_known_by_wavelength_whatever_their_order_and_padding() -> None:
    backbone, x = make(), cube()
    order = np.random.default_rng(0).permutation(10)
    expected = backbone(x, BANDS).pooled_BD
    assert torch.allclose(backbone(x[..., order], BANDS.subset(order)).pooled_BD, expected, atol=1e-6)
    padded = torch.nn.functional.pad(x, (0, 3), value=torch.nan)
    assert torch.allclose(backbone(padded, BandTensors.from_sensors(BANDS, 13)).pooled_BD, expected, atol=1e-6)
    per_sample = BandTensors.from_sensors([BANDS, BANDS.subset(order), BANDS, BANDS])
    mixed = torch.stack([x[0], x[1][..., order], x[2], x[3]])
    assert torch.allclose(backbone(mixed, per_sample).pooled_BD, expected, atol=1e-6)


def test_two_bands_of_one_centre_keep_their_places() -> None:
    bands = BandGrid([500, 600, 600, 700])
    backbone, x = make(bands=bands), cube(bands=bands)
    swapped = x[..., [0, 2, 1, 3]]
    assert not torch.allclose(backbone(x, bands).pooled_BD, backbone(swapped, bands).pooled_BD)


def test_other_bands_are_refused_and_missing_ones_only_in_training() -> None:
    backbone, x = make(), cube()
    with pytest.raises(SpecfmError, match=r"built for other bands \(9 at 450-850 nm; here are 9 at 460-860"):
        backbone(x, BandGrid(BANDS.wavelengths_nm + 10, valid=BANDS.valid))
    few = np.arange(5)
    with pytest.raises(SpecfmError, match="5 are its own"):
        backbone(x[..., few], BANDS.subset(few))
    more = BandGrid(np.append(BANDS.wavelengths_nm, 950), valid=[*BANDS.valid, True])
    with pytest.raises(SpecfmError, match="9 are its own.; give its own alone"):
        backbone(torch.cat([x, x[..., :1]], -1), more)
    assert backbone.train()(x[..., few], BANDS.subset(few)).pooled_BD.isfinite().all()
    with pytest.raises(SpecfmError, match="other bands"):
        backbone(x, BandGrid(BANDS.wavelengths_nm + 10, valid=BANDS.valid))
    with pytest.raises(UsageError, match="whole images"):
        backbone(x, BANDS, keep_BK=torch.zeros(4, 1, dtype=torch.long))
    with pytest.raises(SpecfmError, match="pass a BandGrid or Sensor"):
        backbone(x)
    with pytest.raises(UsageError, match="not aligned"):
        backbone.align()


def test_statistics_standardise_physical_values() -> None:
    """Counts with a scale and reflectance give the same features, once each has its statistics."""
    x = cube()
    sensor = specfm.Sensor(BANDS, scale=1e-4, offset=-0.1)
    counts = ((x + 0.1) * 1e4).double()
    one, two = make(), make()
    half = [(x[:2], BANDS, None), (x[2:], BANDS, None)]
    one.fit_statistics(half)
    two.fit_statistics([(counts, sensor, None)])
    values = x[..., :9].double().reshape(-1, 9)
    assert torch.allclose(one.mean_C.double(), values.mean(0), atol=1e-6)
    assert torch.allclose(one.factor_C.double(), 1 / values.std(0, unbiased=False), rtol=1e-5)
    assert torch.allclose(one(x, BANDS).pooled_BD, two(counts, sensor).pooled_BD, atol=1e-4)
    with pytest.raises(SpecfmError, match="no valid pixel"):
        make().fit_statistics([(x, BANDS, torch.zeros(4, 9, 9, dtype=torch.bool))])


def test_what_is_masked_cannot_be_seen() -> None:
    backbone, x = make(), cube()
    backbone.fit_statistics([(x, BANDS, None)])
    mask = torch.rand(4, 9, 9, generator=torch.Generator().manual_seed(1)) > 0.3
    spoilt = torch.where(mask[..., None], x, torch.inf)
    spoilt[..., 9] = torch.nan  # the unusable band
    assert torch.equal(backbone(x, BANDS, mask).tokens_BND, backbone(spoilt, BANDS).tokens_BND)
    nothing = backbone(x, BANDS, torch.zeros_like(mask))
    assert not nothing.token_mask_BN.any() and nothing.pooled_BD.isfinite().all()


def test_level_sample_forgets_brightness() -> None:
    x = cube()
    for level, same in (("sample", True), ("none", False)):
        backbone = make(level=level)
        backbone.fit_statistics([(x, BANDS, None)])
        assert torch.allclose(backbone(x, BANDS).pooled_BD, backbone(3 * x, BANDS).pooled_BD, atol=1e-4) is same
    given = torch.full((4,), 2.0)
    sample = make(level="sample")
    assert torch.allclose(
        sample(x, BANDS, level_B=given).pooled_BD, sample(2 * x, BANDS, level_B=2 * given).pooled_BD, atol=1e-5
    )


def test_a_batch_is_one_call_with_statistics_of_all() -> None:
    def part(values: torch.Tensor) -> BatchPart:
        zeros = torch.zeros(len(values), dtype=torch.int64)
        return BatchPart(
            values, BandTensors.from_sensors(BANDS), None, zeros, zeros, zeros, zeros, zeros[:, None].repeat(1, 2),
            zeros, zeros,
        )  # fmt: skip

    backbone, x = make(), cube()
    halves = backbone.train()(Batch((part(x[:1]), part(x[1:]))))
    assert torch.allclose(halves.pooled_BD, make().train()(x, BANDS).pooled_BD, atol=1e-5)
    mixed = backbone.eval()(Batch((part(x), part(cube(1, 20)))))
    assert mixed.grid_hw[0] != mixed.grid_hw[1] and len(mixed.pooled_BD) == 8
    assert torch.allclose(mixed.pooled_BD[:4], backbone(x, BANDS).pooled_BD, atol=1e-5)


def nested(rows: int) -> torch.Tensor:
    turned, _ = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    return turned[:rows]


def test_nested_components_leave_the_function_unchanged() -> None:
    backbone, x = make(), cube()
    backbone.fit_statistics([(x, BANDS, None)])
    backbone.set_channels(nested(3))
    before = backbone(x, BANDS).tokens_BND
    old, new, change = backbone.set_channels(nested(7))
    assert torch.equal(new[:, :3], old) and not new[:, 3:].any()
    assert torch.equal(change, torch.eye(3, 7, dtype=torch.float64))
    assert torch.allclose(backbone(x, BANDS).tokens_BND, before, atol=1e-6)
    backbone.set_channels(None)  # back to the bands: the components span no more than they
    assert backbone.config["mixtures"] is None and stem_of(backbone.net).weight.shape[1] == 9
    assert torch.allclose(backbone(x, BANDS).tokens_BND, before, atol=1e-5)


def test_groups_that_are_divided_leave_the_function_unchanged() -> None:
    backbone, x = make(), cube()
    coarse = torch.from_numpy(BandGrid(np.arange(500, 509)).merge([[0, 1, 2, 3], [4, 5, 6, 7, 8]])[1])
    fine = torch.from_numpy(BandGrid(np.arange(500, 509)).merge([[0, 1], [2, 3], [4, 5], [6, 7, 8]])[1])
    backbone.set_channels(coarse)
    before = backbone(x, BANDS).tokens_BND
    backbone.set_channels(fine)
    assert torch.allclose(backbone(x, BANDS).tokens_BND, before, atol=1e-5)


@pytest.mark.parametrize("mixtures", [None, 4])
def test_a_release_comes_back_whole(tmp_path: object, mixtures: int | None) -> None:
    backbone, x = make(), cube()
    moments = backbone.fit_statistics([(x, BANDS, None)])
    assert moments.count == 4 * 81
    if mixtures:
        backbone.set_channels(nested(mixtures))
    folder = specfm.save(backbone, f"{tmp_path}/model", card={"made": "by a test"})
    loaded = specfm.load(folder)
    assert isinstance(loaded, Backbone) and loaded.card["made"] == "by a test" and not loaded.training
    assert torch.equal(loaded(x, BANDS).tokens_BND, backbone(x, BANDS).tokens_BND)
    assert build_encoder(loaded.config).config == loaded.config
    assert (loaded.bands, loaded.patch_size) == (backbone.bands, backbone.patch_size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "timm:resnet_of_mine"}, "no network 'timm:resnet_of_mine'"),
        ({"backbone": "resnet18"}, "choose timm:NAME"),
        ({"stride": 0}, "stride must be a whole number"),
        ({"level": "scene"}, "level must be none or sample"),
        *(({"mixtures": n}, "mixtures must be a whole number from 1 to 9 bands") for n in (0, -1, 10, 2.5, True)),
        ({"options": {"depth": 3}}, "cannot be built for 9 bands"),
        ({"bands": BandGrid([500.0, 600.0], valid=[False, False])}, "at least one usable band"),
    ],
)
def test_what_cannot_be_built_is_a_sentence(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create_backbone(**{"backbone": "timm:resnet18", "bands": BANDS, **options})  # type: ignore[arg-type]


def test_stride_none_keeps_the_stem_of_large_images() -> None:
    assert create_backbone("timm:resnet18", BANDS, stride=None).patch_size == 32
    assert create_backbone("timm:resnet18", BANDS, stride=2).patch_size == 16
