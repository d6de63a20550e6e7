"""Several scenes at a glance: what they have in common, and which of them stand out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

OUTLIER = 2.0  # times more or fewer object pixels than most scans have is worth a look
NAMED = 5  # scenes


def summary(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines about descriptions of scenes (:meth:`specfm.inspection.scene.Inspection.to_dict`, with what was given)."""
    lines = [f"{len(rows)} scenes"]
    lines += [f"  {words}: {count}" for words, count in Counter(map(_bands, rows)).most_common()]
    shares = {row["scene"]["name"]: row["given"]["objects"]["share"] for row in rows if _has_objects(row)}
    if shares:
        middle = median(shares.values())
        lines.append(f"  objects on {min(shares.values()):.1%} to {max(shares.values()):.1%} of pixels")
        odd = {name: share for name, share in shares.items() if not middle / OUTLIER <= share <= middle * OUTLIER}
        if odd:
            told = [f"{name} ({share:.1%})" for name, share in sorted(odd.items(), key=lambda each: each[1])]
            lines.append(f"  unlike the others, look at their pictures (--quicklook): {_some(told)}")
    labelled = [row for row in rows if row["scene"]["labels"]]
    if labelled:
        names = Counter(name for row in labelled for name in row["scene"]["labels"] if name != "unlabelled")
        bare = [row["scene"]["name"] for row in rows if not set(row["scene"]["labels"] or ()) - {"unlabelled"}]
        lines.append(f"  labels: {_some([f'{name} in {count}' for name, count in names.items()], 12)}")
        if bare:
            lines.append(f"  without any label: {_some(bare)}")
    for text, count in Counter(finding["text"] for row in rows for finding in row["findings"]).most_common(NAMED):
        if count > 1:
            lines.append(f"  suspicious in {count}: {text}")
    return lines


def _has_objects(row: dict[str, Any]) -> bool:
    return row["given"] is not None and row["given"]["objects"] is not None


def _bands(row: dict[str, Any]) -> str:
    coverage = row["coverage"]
    span = "no usable band" if coverage["low_nm"] is None else f"{coverage['low_nm']:.0f}-{coverage['high_nm']:.0f} nm"
    bad = coverage["bands"] - coverage["usable"]
    return f"{coverage['bands']} bands{f', {bad} unusable' if bad else ''}, {span}, {row['scene']['dtype']}"


def _some(words: Sequence[str], most: int = NAMED) -> str:
    more = len(words) - most
    return ", ".join(words[:most]) + (f" and {more} more" if more > 0 else "")
