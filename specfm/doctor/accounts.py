"""Whether wandb and the Hugging Face hub know who we are. Keys are never shown, the network is not asked."""

from __future__ import annotations

import importlib.util
import netrc
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

from specfm.doctor.finding import Finding, good, note


def wandb() -> Iterator[Finding]:
    """What ``wandb: {mode: auto}`` of a run would do."""
    if importlib.util.find_spec("wandb") is None:
        yield note("wandb", "is not installed: runs are recorded in metrics.jsonl alone", "pip install wandb")
        return
    mode = os.environ.get("WANDB_MODE", "")
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    if mode in ("disabled", "dryrun", "offline"):
        yield note("wandb", f"WANDB_MODE={mode}", "unset WANDB_MODE to send runs, or wandb sync them later")
    elif os.environ.get("WANDB_API_KEY") or _in_netrc(host):
        yield good("wandb", f"logged in at {host}; wandb.mode=auto sends runs there")
    else:
        yield note(
            "wandb", "not logged in: wandb.mode=auto keeps runs on this disk", "wandb login, or wandb sync later"
        )


def _in_netrc(host: str) -> bool:
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(str(path)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def hub() -> Iterator[Finding]:
    """Whether push_to_hub has a token, and whether the hub was switched off."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        yield note(
            "hub", "HF_HUB_OFFLINE is set: encoders are loaded from the local cache only", "unset it to download"
        )
    elif get_token():
        yield good("hub", "a token is there; push_to_hub can publish")
    else:
        yield note("hub", "no token: public encoders can be loaded, none published", "hf auth login")
