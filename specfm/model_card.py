"""``README.md`` of a release: a model card with the YAML block that the Hugging Face hub reads."""

from __future__ import annotations

import json
from typing import Any

import yaml

TAGS = ("specfm", "hyperspectral", "imaging-spectroscopy", "remote-sensing", "foundation-model")
SHOWN = 40  # entries of a list


def model_card(encoder: Any, card: dict[str, Any]) -> str:
    """Text of the card.

    Args:
        encoder: an encoder or a backbone.
        card: facts about its training; ``license`` also goes into the YAML block.
    """
    lines = [
        *hub_block(card, "image-feature-extraction"),
        "# A specfm encoder",
        "",
        "```python",
        "import specfm",
        'encoder = specfm.from_pretrained("this folder, or OWNER/NAME on the hub")',
        "features = encoder(x_BHWC, bands)   # bands: specfm.BandGrid or specfm.Sensor",
        "```",
        "",
        f"* parameters: {sum(p.numel() for p in encoder.parameters()):,}",
        f"* config: `{json.dumps(encoder.config)}`",
    ]
    lines += [f"* {key}: {_short(value)}" for key, value in sorted(card.items())]
    return "\n".join(lines) + "\n"


def hub_block(card: dict[str, Any], task: str) -> list[str]:
    """Lines that a card begins with; ``task`` is a word of the hub (its pipeline tags)."""
    licence = {"license": card["license"]} if isinstance(card.get("license"), str) else {}
    block = {**licence, "library_name": "specfm", "pipeline_tag": task, "tags": list(TAGS)}
    return ["---", yaml.safe_dump(block, sort_keys=False).rstrip(), "---", ""]


def _short(value: Any) -> str:
    """A value of the card for its reader; lists that only a program compares stay in ``card.json``."""
    if isinstance(value, list) and len(value) > SHOWN:
        return f"{json.dumps(value[:3])[:-1]}, ...] ({len(value)} of them, listed in card.json)"
    return json.dumps(value)
