"""Release folders: ``config.json`` + ``model.safetensors`` + ``card.json`` + ``README.md`` + ``MANIFEST.json``.

Nothing but safetensors and JSON is ever read, and the hashes of the manifest are checked before anything is parsed. An
encoder that was pretrained here also has ``library.safetensors``, spectra like those of its pretraining
(:mod:`specfm.library`), and ``stems.safetensors`` where each acquisition has a stem of its own
(:mod:`specfm.models.stem`). A training checkpoint holds a release folder as ``model/``, and a run folder holds its
last one as ``model``, so :func:`load` takes any of the three. The manifest says what kind of model a folder holds;
:class:`specfm.release.Release` and ``read_module`` serve every kind, :func:`save` and :func:`load` encoders.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from specfm.digests import digest_parts
from specfm.documents import read_json
from specfm.errors import SpecfmError, UsageError
from specfm.files import MANIFEST, IntegrityError, verify_manifest
from specfm.model_card import model_card
from specfm.release import FORMAT, LIBRARY, STEMS, Release
from specfm.sensors import Sensor

if TYPE_CHECKING:
    from torch import Tensor, nn

    from specfm.library import Library
    from specfm.models.backbone import AnyEncoder
    from specfm.models.stem import Stems

Module = TypeVar("Module", bound="nn.Module")
Listed = TypeVar("Listed")

ENCODER, TASK = "specfm-encoder", "specfm-task"
KINDS = {ENCODER: "an encoder", TASK: "a task model"}
LOADED_BY = {
    ENCODER: "load it by specfm.load, or train a head on it by specfm finetune",
    TASK: "map scenes with it by specfm predict or change, and load it as a module by specfm.load_task",
}
HEADS = "heads.safetensors"  # of a pretraining, where a release has any: what only training on needs
ALIGNED_TO = "aligned_to"  # of a card: sensors that an encoder was aligned for when it was saved
FILES = ("config.json", "model.safetensors", "card.json", "README.md")
SHIPPED = Path(__file__).parent / "weights"  # release folders that come with the package, loadable by name


def read_module(
    path: str | Path, kind: str, build: Callable[[dict[str, Any]], Module]
) -> tuple[Module, dict[str, Any], dict[str, Any]]:
    """A module with the weights of a release folder, its ``config.json`` and its ``card.json``; strict throughout.

    Its ``library`` and its ``stems`` are set where the folder has them.

    Args:
        path: release folder, training checkpoint or run folder.
        kind: what the manifest must say the folder holds (a key of :data:`KINDS`).
        build: from ``config.json`` to the module, whose weights are then replaced.

    Raises:
        SpecfmError: nothing to load there, another kind of model, a changed byte, an unknown format, or weights that do
            not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    from specfm.models.options import least_parameters

    folder = find_release(path)
    manifest = verify_manifest(folder)
    listed = {row["name"] for row in manifest["files"]}
    if missing_files := [name for name in FILES if name not in listed]:
        raise IntegrityError(f"{folder / MANIFEST} does not vouch for {', '.join(missing_files)}; refusing to read it")
    if manifest.get("kind") != kind:
        found = str(manifest.get("kind"))
        raise SpecfmError(
            f"{folder} holds {KINDS.get(found, f'something of kind {found!r}')}, not {KINDS[kind]}; "
            + LOADED_BY.get(found, "give another folder")
        )
    config, card = _read_json(folder / "config.json"), _read_json(folder / "card.json")
    if config.get("format") != FORMAT or not isinstance(config.get("encoder"), dict):
        raise SpecfmError(f"{folder / 'config.json'} has format {config.get('format')!r}, this specfm reads {FORMAT}")
    size = next(row["size"] for row in manifest["files"] if row["name"] == "model.safetensors")
    try:
        if (least := least_parameters(config["encoder"])) > size:
            raise SpecfmError(f"it asks for {least} parameters, but model.safetensors has {size} bytes")
        module = build(config)
    except (
        *(SpecfmError, ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError),
        *(TypeError, ValueError),
    ) as error:
        raise SpecfmError(f"{folder / 'config.json'} does not describe {KINDS[kind]} ({error})") from None
    try:
        weights = from_bytes((folder / "model.safetensors").read_bytes())
    except (OSError, ValueError, SafetensorError) as error:
        raise SpecfmError(f"{folder / 'model.safetensors'} cannot be read ({error})") from None
    expected = module.state_dict()
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    shapes = sorted(n for n in expected.keys() & weights.keys() if expected[n].shape != weights[n].shape)
    if missing or unknown or shapes:
        raise SpecfmError(
            f"{folder / 'model.safetensors'} does not fit its config.json: "
            f"missing {missing[:3]}, unknown {unknown[:3]}, other shape {shapes[:3]}"
        )
    module.load_state_dict(weights, strict=True)
    if (library := _read_library(folder)) is not None:
        module.library = library  # type: ignore[assignment]
    if (stems := _read_stems(folder)) is not None:
        module.stems = stems  # type: ignore[assignment]
    return module, config, card


def unwrapped(encoder: Any) -> Any:
    """The encoder itself of one that torch.compile, DataParallel or DistributedDataParallel wrapped."""
    while (inner := getattr(encoder, "_orig_mod", None)) is not None or (
        not hasattr(encoder, "num_features") and (inner := getattr(encoder, "module", None)) is not None
    ):
        encoder = inner
    return encoder


def release_of(encoder: AnyEncoder, card: dict[str, Any] | None = None) -> Release:
    """The release of an encoder as it is now; ``card`` as for :func:`save`."""
    encoder = unwrapped(encoder)
    card = dict(encoder.card if card is None else card)
    card.pop(ALIGNED_TO, None)
    if (sensors := getattr(encoder, "aligned_to", None)) is not None:
        card[ALIGNED_TO] = [sensor.to_dict() for sensor in sensors]
    return Release.of(encoder, {"encoder": encoder.config}, card, model_card(encoder, card), ENCODER)


def save(
    encoder: AnyEncoder, folder: str | Path, card: dict[str, Any] | None = None, *, overwrite: bool = False
) -> Path:
    """Publish an encoder as a release folder, by one rename.

    Args:
        encoder: what is saved.
        folder: to be made.
        card: JSON-safe facts about its training (scenes, sensors, domains, digests); default: the encoder's own.
        overwrite: replace a release that is there, once the new one is whole.

    Raises:
        UsageError: ``folder`` exists, and is no release or is not to be replaced.
    """
    folder = Path(folder)
    if folder.exists() and not overwrite:
        raise UsageError(f"{folder} exists; choose another folder, or pass overwrite=True")
    if folder.exists():
        _refuse_all_but_a_release(folder)
    return release_of(encoder, card).publish(folder, overwrite)


def _refuse_all_but_a_release(folder: Path) -> None:
    """What may be replaced holds nothing but the files of a release.

    Raises:
        UsageError: it is a link, a file, another folder, or one with further files.
    """
    from specfm.files import read_manifest

    if folder.is_symlink() or not folder.is_dir():
        raise UsageError(f"{folder} is no folder, so it is not overwritten; choose another one")
    held = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}
    try:
        own = {MANIFEST, *(row["name"] for row in read_manifest(folder)["files"])} if held else set()
    except SpecfmError:
        own = set()
    if foreign := sorted(held - own):
        raise UsageError(f"{folder} holds {foreign[0]}, which is of no release, so it is not overwritten; move it away")


def load(path: str | Path, device: str = "cpu", align: bool | None = None) -> AnyEncoder:
    """Load an encoder; strict in every respect.

    The encoder comes back in evaluation mode, with its model card as ``encoder.card``.

    Args:
        path: a release folder, a training checkpoint or a finished run, or the name of an encoder that comes with
            specfm (one of :func:`shipped_encoders`). A folder of that name goes first.
        device: cpu or cuda.
        align: for frozen features that are compared across sensors; see :meth:`specfm.models.Encoder.align`. Default:
            as it was saved.

    Raises:
        SpecfmError: nothing to load there, a task model, a changed byte, an unknown format, or weights that do not fit.
        UsageError: no such device; ``align`` without a library of spectra.
    """
    from specfm.models.registry import build_encoder

    require_device(device)
    encoder, _, card = read_module(path, ENCODER, lambda config: build_encoder(config["encoder"]))
    encoder.card = card
    encoder = encoder.to(device).eval()
    if align is None and card.get(ALIGNED_TO) is not None and encoder.library is not None:
        try:
            encoder.align(True, [Sensor.from_dict(each) for each in card[ALIGNED_TO]])
        except (KeyError, TypeError, ValueError, SpecfmError) as error:
            raise SpecfmError(f"{path}: its card names no sensors that it was aligned for ({error})") from None
    return encoder if align is None else encoder.align(align)


def take_weights(encoder: AnyEncoder, source: AnyEncoder, name: str | Path) -> None:
    """Copy the weights of ``source`` into ``encoder``, which must be of the same architecture.

    Raises:
        UsageError: it is not; the message lists what differs.
    """
    from specfm.config import differences

    if differing := differences(source.config, encoder.config):
        listed = ", ".join(f"{key} {old!r} there, {new!r} here" for key, (old, new) in differing.items())
        raise UsageError(f"the model in {name} has another architecture than the configuration ({listed})")
    encoder.load_state_dict(source.state_dict())
    encoder.stems = source.stems


def read_heads(path: str | Path) -> dict[str, Tensor]:
    """Tensors of the heads that a release brings along, ``objective.name`` by name; none where it has no such file.

    Raises:
        SpecfmError: nothing to load there, or a changed byte.
    """
    from safetensors.torch import load as from_bytes

    folder = find_release(path)
    if HEADS not in {row["name"] for row in verify_manifest(folder)["files"]}:
        return {}
    return from_bytes((folder / HEADS).read_bytes())


def _read_library(folder: Path) -> Library | None:
    """The library of a verified release, None if its manifest lists none."""
    from specfm.library import Library

    return _read_listed(folder, LIBRARY, Library.from_bytes)


def _read_stems(folder: Path) -> Stems | None:
    """The stems of acquisitions of a verified release, None if its manifest lists none."""
    from specfm.models.stem import Stems

    return _read_listed(folder, STEMS, Stems.from_bytes)


def _read_listed(folder: Path, name: str, read: Callable[[bytes], Listed]) -> Listed | None:
    """A further file of a verified release, None if its manifest does not list it."""
    from specfm.files import read_manifest

    if name not in {row["name"] for row in read_manifest(folder)["files"]}:
        return None
    try:
        return read((folder / name).read_bytes())
    except (OSError, SpecfmError) as error:
        raise SpecfmError(f"{folder / name} cannot be read ({error})") from None


def require_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        UsageError: neither cpu nor cuda, or a CUDA device that this machine lacks.
    """
    import torch

    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError):
        wanted = None
    if wanted is None or wanted.type not in ("cpu", "cuda"):
        raise UsageError(f"unknown device {device!r}; use cpu or cuda (--device)")
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {device} was asked for, but there is no such CUDA device; use --device cpu")


def find_release(path: str | Path) -> Path:
    """The release folder meant by ``path``: itself, its ``model/``, the newest checkpoint of a run, or a shipped one.

    Raises:
        SpecfmError: there is none.
    """
    path = Path(path)
    if not path.is_dir():
        if len(path.parts) == 1 and path.name in shipped_encoders():
            return SHIPPED / path.name
        names = ", ".join(shipped_encoders()) or "none"
        if near := get_close_matches(path.name, shipped_encoders(), n=1):
            raise SpecfmError(f"{path} is not a folder; did you mean {near[0]}, an encoder that comes with specfm?")
        raise SpecfmError(
            f"{path} is not a folder; give a release folder, a training checkpoint, a run folder, "
            f"or the name of an encoder that comes with specfm ({names})"
        )
    for candidate in (path, path / "model"):
        if (candidate / "config.json").is_file() and (candidate / "model.safetensors").is_file():
            return candidate
    steps = sorted((path / "checkpoints").glob("step-*/model"), reverse=True)
    for candidate in steps:
        try:
            verify_manifest(candidate)
        except IntegrityError:
            continue
        return candidate
    raise SpecfmError(f"{path} holds no model (config.json with model.safetensors, or checkpoints/step-*/model)")


def shipped_encoders() -> tuple[str, ...]:
    """Names of the encoders that come with specfm, for :func:`load`."""
    return tuple(sorted(path.parent.name for path in SHIPPED.glob("*/config.json")))


def has_whitened_stem(card: dict[str, Any]) -> bool:
    """True if a model card says that the stem is whitened: in pretraining, or fitted to scenes.

    Such a stem amplifies what was small in the embedding. Trained on at the rate of the rest it falls apart: segments
    of Salinas-A, 300 steps, mIoU .56 with all of the encoder trained, .98 from its first block on.
    """
    config = card.get("config") or {}
    return bool(card.get("whitened") or card.get("fitted") or (config.get("whiten") or {}).get("batches", 0))


def release_digest(path: str | Path) -> str:
    """16 hex digits that name the weights and config of a release (from its manifest)."""
    return digest_parts([(find_release(path) / MANIFEST).read_bytes()])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except (OSError, ValueError) as error:
        raise SpecfmError(f"{path} cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise SpecfmError(f"{path} does not hold a JSON object")
    return value
