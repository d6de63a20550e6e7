"""Features in the plane: principal components always, UMAP where it is installed, coloured by what is known.

Shape suffixes: N samples, D features, 2 coordinates in the plane.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from downstream.features.standardise import Standardiser
from downstream.report.figures import colour_of, data_uri, new_figure

if TYPE_CHECKING:
    from specfm.scene import Scene

MAX_POINTS = 4000  # of a scatter; more are thinned evenly
MAX_NAMES = 20  # of a legend


@dataclass(frozen=True)
class Embedding:
    """Features to scatter: ``X_ND`` and, per sample, names to colour by (keys such as "class", "domain", "sensor")."""

    X_ND: np.ndarray
    colourings: Mapping[str, Sequence[str]]


def embed_scenes(
    encoder: Any, scenes: Sequence[Scene], window: int, max_per_class: int = 50, pooling: str = "mean"
) -> Embedding:
    """Features of labelled pixels with their class and, where there are several, their domain and sensor.

    Args:
        encoder: frozen.
        scenes: with labels.
        window: side around each pixel.
        max_per_class: pixels of a class a scene.
        pooling: see ``downstream.features.pooling``.
    """
    from downstream.features.extract import extract
    from downstream.splits.samples import collect_samples, sensor_name

    scenes = on_one_list(scenes)
    samples = collect_samples(scenes, window, max_per_class=max_per_class)
    features = extract(encoder, scenes, window, samples, pooling=pooling)
    colourings = {"class": [samples.label_names[y] for y in samples.y_N]}
    named = {"domain": [s.domain or s.name for s in scenes], "sensor": [sensor_name(s) for s in scenes]}
    for what, names in named.items():
        if len(set(names)) > 1:
            colourings[what] = [names[i] for i in samples.scene_N]
    return Embedding(features.X_ND, colourings)


def on_one_list(scenes: Sequence[Scene]) -> list[Scene]:
    """The labelled scenes with the classes of all of them, by name, so that scenes of several cards go together."""
    names = tuple(dict.fromkeys(name for scene in scenes for name in scene.label_names))
    found = []
    for scene in scenes:
        if scene.labels_HW is not None:
            new_of = np.array([*(names.index(name) for name in scene.label_names), -1], np.int32)
            found.append(scene.replace(labels_HW=new_of[scene.labels_HW], label_names=names))
    return found


def pca_plane(X_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First two principal scores ``[N, 2]`` of standardised features and their shares of the variance ``[2]``."""
    wide = Standardiser(X_ND)(X_ND)
    u, s, axes = np.linalg.svd(wide, full_matrices=False)
    if len(s) < 2:
        u, s, axes = (np.pad(a, w) for a, w in ((u, ((0, 0), (0, 1))), (s, (0, 1)), (axes, ((0, 1), (0, 0)))))
    sign = np.sign(axes[np.arange(2), np.abs(axes[:2]).argmax(1)])
    return u[:, :2] * s[:2] * np.where(sign == 0, 1, sign), s[:2] ** 2 / max((s**2).sum(), 1e-12)


def has_umap() -> bool:
    """Whether umap-learn is installed."""
    return find_spec("umap") is not None


def umap_plane(X_ND: np.ndarray) -> np.ndarray | None:
    """UMAP of standardised features ``[N, 2]`` (McInnes et al. 2018), None without umap-learn or with few samples."""
    if not has_umap() or len(X_ND) < 20:
        return None
    from umap import UMAP

    return np.asarray(UMAP(n_components=2, random_state=0).fit_transform(Standardiser(X_ND)(X_ND)))


def embedding_scatter(X_ND: np.ndarray, colourings: Mapping[str, Sequence[str]]) -> str:
    """Scatter of features, one column per colouring (class, domain, sensor); PCA above, UMAP below if installed."""
    keep = np.unique(np.linspace(0, len(X_ND) - 1, min(MAX_POINTS, len(X_ND))).astype(int))
    chosen_ND = np.asarray(X_ND)[keep]
    score_N2, share = pca_plane(chosen_ND)
    planes = [(score_N2, [f"PC {i + 1} ({100 * share[i]:.0f} %)" for i in range(2)])]
    if (warped_N2 := umap_plane(chosen_ND)) is not None:
        planes.append((warped_N2, ["UMAP 1", "UMAP 2"]))
    figure = new_figure(4.6 * len(colourings), 4.4 * len(planes))
    shuffled = np.random.default_rng(0).permutation(len(keep))  # no class hides under the one drawn last
    for row, (plane_N2, axes_names) in enumerate(planes):
        for column, (title, names) in enumerate(colourings.items(), 1):
            axis = figure.add_subplot(len(planes), len(colourings), row * len(colourings) + column)
            chosen = np.asarray(names, dtype=str)[keep]
            distinct, number_N = np.unique(chosen, return_inverse=True)
            colours = np.array([colour_of(i) for i in range(len(distinct))])
            axis.scatter(
                plane_N2[shuffled, 0], plane_N2[shuffled, 1], s=6, c=colours[number_N[shuffled]], alpha=0.6, lw=0
            )
            for i, name in enumerate(distinct[:MAX_NAMES]):
                axis.plot([], [], "o", ms=4, color=colours[i], label=name)
            if len(distinct) > MAX_NAMES:
                axis.plot([], [], " ", label=f"and {len(distinct) - MAX_NAMES} more")
            axis.set_title(f"by {title}", fontsize=9)
            axis.set_xlabel(axes_names[0], fontsize=8)
            axis.set_ylabel(axes_names[1], fontsize=8)
            axis.tick_params(labelsize=7)
            axis.legend(fontsize=6.5, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, frameon=False)
    return data_uri(figure, "png")
