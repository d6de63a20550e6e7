"""What a user names (a card, CARD:SCENE, a file, a folder) becomes scenes, calibrated where there are references."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specfm.cards.loose_files import FileReader
from specfm.errors import SpecfmError, UsageError
from specfm.scene import Scene
from specfm.sensor_table import get_sensor
from specfm.sensors import Sensor

if TYPE_CHECKING:
    from specfm.cards.card import Card


def open_scenes(
    names: Sequence[str | Card | Scene], reader: Mapping[str, Any] | None = None, domain: str | None = None
) -> Iterator[Scene]:
    """Scenes of cards (by name or path) and of files or folders of files; no pixel is read.

    Scenes of files are called as their stems; where stems repeat, as their paths below the folder in common
    (:func:`specfm.cards.names.scene_names`).

    Args:
        names: what the user wrote; a Scene is itself, a Card its scenes.
        reader: of files, arguments of :func:`specfm.readers.read_scene`, and the references ``white``,
            ``white_reflectance`` and ``dark`` that make reflectance of them (cards name their own); also
            ``saturation``, the stored value from which a pixel is saturated, which goes before a card's.
        domain: replaces the domain of every scene. A file's default: its sensor's name, else its folder's and its
            number of bands (a folder of scans of one sensor is a domain).

    Raises:
        UsageError: unknown card, one reference without the other, options of files beside a card.
        SpecfmError: unreadable file, files without names of their own.
    """
    from specfm.cards.names import scene_names

    told = dict(reader or {})
    files, seen = FileReader.of(told), set[Path]()
    scenes = [scene for each in names for scene in _scenes_of(each, told, files, seen)]
    loose = {i: scene.path for i, scene in enumerate(scenes) if not scene.dataset and scene.path is not None}
    own = scene_names(list(loose.values()), [scenes[i].name for i in loose])
    for i, name in zip(loose, own, strict=True):
        scenes[i] = scenes[i].replace(name=name)
    yield from scenes if domain is None else (scene.replace(domain=domain) for scene in scenes)


def _scenes_of(
    each: str | Card | Scene, told: Mapping[str, Any], files: FileReader, seen: set[Path]
) -> Iterable[Scene]:
    if isinstance(each, str):
        return _open(each, told, files, seen)
    if isinstance(each, Scene):
        refuse_options(each.where, told, "a Scene")
        return [each]
    refuse_options(each.name, told)
    return each.scenes(saturation=files.saturation)


def _open(name: str, told: Mapping[str, Any], files: FileReader, seen: set[Path]) -> Iterator[Scene]:
    from specfm.cards import load_card

    path = Path(name)
    if is_card(name):
        refuse_options(name, told)
        yield from load_card(name).scenes(saturation=files.saturation)
        return
    if not path.exists():
        raise SpecfmError(f"{name}: no such file, folder or card")
    for file in files.files(path):
        scene = files.measured(file)
        if scene.path is not None and scene.path.resolve() in seen:
            continue  # named twice: `folder/*` of a shell gives an ENVI header and its data file
        if scene.path is not None:
            seen.add(scene.path.resolve())
        if not scene.domain:
            scene = scene.replace(domain=scene.sensor.name or f"{file.resolve().parent.name}-{scene.shape[2]}")
        yield files.calibrated(scene)


def is_card(name: str) -> bool:
    """Whether a user means a card by this: by its path, or by a name that no file has."""
    path = Path(name)
    return path.suffix.lower() in (".yaml", ".yml") or not (path.exists() or path.suffix or len(path.parts) > 1)


def refuse_options(card: str, told: Mapping[str, Any], kind: str = "a card") -> None:
    """A card describes its files itself: of all options of files only ``saturation`` goes with it; a Scene likewise.

    Raises:
        UsageError: another one is given; names it.
    """
    given = [key for key, value in told.items() if value is not None and key != "saturation"]
    if given:
        options = ", ".join(f"--{key.replace('_', '-')}" for key in given)
        raise UsageError(
            f"{card} is {kind}, which describes its files itself; write in it what {options} would say, or name the "
            f"files in place of {kind.replace('a ', 'the ', 1)}"
        )


def open_sensor(name: str | Sensor | Scene, option: str) -> Sensor:
    """A known sensor by any of its names, or that of a scene.

    Args:
        name: what the user wrote: an instrument, a file, a card that holds one scene, or ``CARD:SCENE``; or a Sensor,
            or a Scene.
        option: that it was written for.

    Raises:
        UsageError: neither a sensor nor a scene.
        SpecfmError: unreadable file.
    """
    if isinstance(name, Sensor | Scene):
        return name if isinstance(name, Sensor) else name.sensor
    try:
        return get_sensor(name)
    except UsageError as error:
        unknown = error
    try:
        return open_scene(name).sensor
    except UsageError as error:
        raise UsageError(f"{option}: {unknown}, or a scene: {error}") from None


def open_scene(name: str | Card | Scene, **reader: Any) -> Scene:
    """The one scene that a user names: a file, a dataset card that holds one scene, or ``CARD:SCENE``.

    Args:
        name: what the user wrote; SCENE is the scene's name within the card, which is mostly the stem of its file. A
            Scene is itself.
        reader: of a file, as of :func:`open_scenes`.

    Of a card no other scene is opened.

    Raises:
        UsageError: a card of several scenes without a choice, an unknown scene, reader options beside a card.
        SpecfmError: unreadable file.
    """
    from specfm.cards.card import load_card

    if not isinstance(name, str):
        scenes = list(open_scenes([name], reader))
        if len(scenes) == 1:
            return scenes[0]
        raise UsageError(f"{name.name} holds {len(scenes)} scenes; give one of them: next(card.scenes())")
    card, colon, wanted = name.rpartition(":")
    if not colon or Path(name).exists() or (not card.endswith((".yaml", ".yml")) and Path(card).parent != Path(".")):
        card, wanted = name, ""
    if not is_card(card):
        scenes = list(open_scenes([card], reader))
        inner = [scene.name for scene in scenes]
        if len(scenes) == 1:
            return scenes[0]
    else:
        refuse_options(card, reader)
        inner = (opened := load_card(card)).names()
        chosen = [own for own in inner if wanted in ("", own)]
        if len(chosen) == 1:
            return next(opened.scenes(only=chosen[0].__eq__, saturation=reader.get("saturation")))
    names = ", ".join(inner[:6]) + (", ..." if len(inner) > 6 else "")
    problem = f"has no scene {wanted!r}" if wanted else f"holds {len(inner)} scenes"
    raise UsageError(f"{card} {problem}; name one of them as {card}:SCENE ({names})")


def card_scenes(cards: Sequence[str | Card | Scene], patterns: Sequence[str] = ()) -> list[Scene]:
    """All scenes of dataset cards, or those whose name with its card's before it (``plots/OSBS_001``) matches one of
    the patterns; no other is opened. Cards and scenes themselves may stand in place of names.

    Raises:
        UsageError: an unknown card, a pattern that no scene matches.
        SpecfmError: missing files.
    """
    from fnmatch import fnmatch

    from specfm.cards.card import Card, load_card

    opened = [each if isinstance(each, Card | Scene) else load_card(each) for each in cards]

    def named(each: Card | Scene) -> list[str]:
        return [each.name] if isinstance(each, Scene) else [f"{each.name}/{name}" for name in each.names()]

    names = [name for each in opened for name in named(each)]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            called = ", ".join(each.name for each in opened)
            raise UsageError(f"no scene of {called} matches {pattern!r}; see specfm inspect {cards[0]}")

    def wanted(name: str) -> bool:
        return not patterns or any(fnmatch(name, pattern) for pattern in patterns)

    def scenes_of(each: Card | Scene) -> Iterable[Scene]:
        if isinstance(each, Scene):
            return [each] if wanted(each.name) else []
        return each.scenes(only=lambda name: wanted(f"{each.name}/{name}"))

    return [scene for each in opened for scene in scenes_of(each)]


def also_through(scenes: Sequence[Scene], sensors: Sequence[str]) -> list[Scene]:
    """The scenes, then all of them as each of these known sensors would have measured them.

    Raises:
        UsageError: an unknown sensor.
        SpecfmError: a scene that does not show what the sensor measures.
    """
    from specfm.simulate import resample_scene

    return [*scenes, *(resample_scene(scene, sensor) for sensor in sensors for scene in scenes)]
