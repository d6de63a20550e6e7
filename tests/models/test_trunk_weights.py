"""The start of a trunk from a timm ViT's blocks: the same function, all or nothing, and never a download."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from pretrain import setup
from pretrain.config import PretrainConfig
from specfm import SpecfmError, UsageError, create_encoder
from specfm.models.encoder import Encoder
from specfm.models.trunk_weights import load_trunk


def encoder_of(**options: object) -> Encoder:
    return create_encoder("nano", patch_size=3, **{"dim": 24, "depth": 2, "heads": 3, **options})


@pytest.fixture
def vit() -> VisionTransformer:
    torch.manual_seed(5)
    return VisionTransformer(img_size=32, patch_size=16, embed_dim=24, depth=2, num_heads=3, num_classes=4).eval()


@pytest.fixture
def file(vit: VisionTransformer, tmp_path: Path) -> Path:
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    return tmp_path / "vit.safetensors"


@pytest.mark.parametrize("layer_scale", [0, 0.1])
def test_the_blocks_are_theirs_and_the_rest_stays(vit: VisionTransformer, file: Path, layer_scale: float) -> None:
    encoder = encoder_of(layer_scale=layer_scale).eval()
    before = {k: v.clone() for k, v in encoder.state_dict().items() if not k.startswith(("blocks.", "norm."))}
    load_trunk(encoder, str(file))
    x = torch.randn(2, 5, 24)
    mine = theirs = x
    for a, b in zip(encoder.blocks, vit.blocks, strict=True):
        mine, theirs = a(mine), b(theirs)
    torch.testing.assert_close(mine, theirs)
    assert torch.equal(encoder.norm.weight, vit.norm.weight)
    assert before and all(torch.equal(encoder.state_dict()[k], v) for k, v in before.items())


def test_what_does_not_fit_is_listed_and_nothing_is_loaded(vit: VisionTransformer, tmp_path: Path) -> None:
    state = vit.state_dict()
    state["blocks.0.mystery"] = state.pop("blocks.0.attn.proj.bias")
    state["norm.weight"] = torch.ones(7)
    save_file(state, tmp_path / "odd.safetensors")
    encoder = encoder_of()
    before = [p.clone() for p in encoder.parameters()]
    with pytest.raises(UsageError) as caught:
        load_trunk(encoder, str(tmp_path / "odd.safetensors"))
    for part in ("missing blocks.0.attn.proj.bias", "unknown blocks.0.mystery", "norm.weight is (7,), here (24,)"):
        assert part in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(before, encoder.parameters(), strict=True))
    with pytest.raises(UsageError, match=r"do not fit this trunk of 3 blocks of width 24 .*missing blocks.2"):
        load_trunk(encoder_of(depth=3), str(tmp_path / "odd.safetensors"))


def test_files_that_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"mae.pth is no .safetensors file; .*convert it"):
        load_trunk(encoder_of(), str(tmp_path / "mae.pth"))
    with pytest.raises(SpecfmError, match=r"none.safetensors cannot be read"):
        load_trunk(encoder_of(), str(tmp_path / "none.safetensors"))
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(SpecfmError, match=r"bad.safetensors cannot be read"):
        load_trunk(encoder_of(), str(tmp_path / "bad.safetensors"))


def test_timm_names_are_looked_up_in_the_cache_only(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    import huggingface_hub

    asked: list[tuple[str, str]] = []
    for found in (None, str(file)):

        def lookup(repo: str, name: str, found: str | None = found) -> str | None:
            asked.append((repo, name))
            return found

        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lookup)
        if found is None:
            with pytest.raises(UsageError, match=r"not in this machine's cache.*hf download timm/vit_base_patch16_"):
                load_trunk(encoder_of(), "timm:vit_base_patch16_224.mae")
        else:
            load_trunk(encoder_of(), "timm:vit_base_patch16_224.mae")
    assert asked == [("timm/vit_base_patch16_224.mae", "model.safetensors")] * 2
    for name in ("nothing_of_the_kind", "vit_base_patch16_224.nosuch"):
        with pytest.raises(UsageError, match="timm has no weights"):
            load_trunk(encoder_of(), f"timm:{name}")


def test_a_run_starts_from_it(vit: VisionTransformer, file: Path) -> None:
    values = {"out": "-", "data": {"shards": "-"}, "model": {"options": {"dim": 24, "depth": 2, "heads": 3}}}
    values["model"] |= {"init_trunk": str(file)}  # type: ignore[operator]
    modules, _ = setup.make_modules(PretrainConfig.model_validate(values))
    assert torch.equal(modules["encoder"].blocks[1].mlp.fc1.weight, vit.blocks[1].mlp.fc1.weight)
    with pytest.raises(ValueError, match="leave one out"):
        PretrainConfig.model_validate({**values, "init_from": "real_nano"})
