"""The same object in another scene: another date, another camera, another scan.

An object is what the group names of the shards say (a plot, a tree, a specimen); one name in several shards, also of
several domains, is one object. With ``same_place`` the partner has the place of the sample in a scene of the same
windows, as two dates on one grid have.

Shapes: N samples of all shards, B samples asked for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretrain.pairs.config import PairsConfig
from pretrain.pairs.pairing import Pairing
from pretrain.rng import mix64
from specfm.errors import UsageError
from specfm.shards import ShardSet
from specfm.shards.schema import stable_id


class SameObject(Pairing):
    """The second view is of a sample of the same object in another scene.

    Args:
        config: ``same_place``.
        shards: the store.
        seed: of the run.

    Raises:
        UsageError: no object is in two scenes.
    """

    def __init__(self, config: PairsConfig, shards: ShardSet, seed: int) -> None:
        self.shards, self.seed = shards, seed
        objects, scenes, places = [], [], []
        for number, reader in enumerate(shards.readers):
            group_U, which_N = np.unique(reader.group_N, return_inverse=True)
            # a group without a name is an object of its own shard
            names = [reader.group_names.get(int(group)) for group in group_U]
            known_U = [
                stable_id("unnamed", number, int(group)) if name is None else stable_id("object", name)
                for group, name in zip(group_U, names, strict=True)
            ]
            objects.append(np.array(known_U, np.int64)[which_N])
            scenes.append(reader.scene_id_N + shards.scene_offsets[number])
            places.append(reader.origin_N2)
        self._scene_N, origin_N2 = np.concatenate(scenes), np.concatenate(places).astype(np.int64)
        fields = [np.concatenate(objects), *(origin_N2.T if config.same_place else ())]
        self._key_N = np.unique(np.stack(fields, 1), axis=0, return_inverse=True)[1].reshape(-1)
        # By object, then scene: the samples of an object lie together, and within them those of each scene.
        self._order_N = np.lexsort((self._scene_N, self._key_N))
        sorted_key_N, sorted_scene_N = self._key_N[self._order_N], self._scene_N[self._order_N]
        count = len(sorted_key_N)
        new_key = np.flatnonzero(np.diff(sorted_key_N, prepend=-1))
        new_scene = np.flatnonzero(
            (np.diff(sorted_key_N, prepend=-1) != 0) | (np.diff(sorted_scene_N, prepend=-1) != 0)
        )
        rank_N = np.empty(count, np.int64)
        rank_N[self._order_N] = np.arange(count)
        self._object_N2 = _run(new_key, rank_N, count)
        self._own_N2 = _run(new_scene, rank_N, count)
        self.share = float((np.diff(self._object_N2) > np.diff(self._own_N2)).mean())
        if self.share == 0:
            raise UsageError(
                "pairs.kind=same_object: no group of the shards is in two scenes; give scenes of one object one group "
                "(key group of their card), or set pairs.kind=views"
            )

    def partners(self, step: int, shard: int, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        number_B = ids + self.shards.offsets[shard]
        (first_B, last_B), (own_first_B, own_last_B) = self._object_N2[number_B].T, self._own_N2[number_B].T
        others_B = (last_B - first_B) - (own_last_B - own_first_B)
        draw_B = mix64(self.seed, 8, step, number_B.astype(np.uint64))
        place_B = first_B + (draw_B % np.maximum(others_B, 1).astype(np.uint64)).astype(np.int64)
        place_B += np.where(place_B >= own_first_B, own_last_B - own_first_B, 0)  # step over the sample's own scene
        partner_B = np.where(others_B > 0, self._order_N[place_B.clip(max=len(self._order_N) - 1)], number_B)
        return self.shards.locate(partner_B)


def _run(starts: NDArray[np.int64], rank_N: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """First and one past the last place of the run that each sample lies in."""
    which_N = np.searchsorted(starts, rank_N, side="right") - 1
    return np.stack([starts, np.append(starts[1:], count)], 1)[which_N]
