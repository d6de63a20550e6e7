"""A page as a browser shows it: served from here, in a frame of the wanted width, every request counted."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# quiet: nothing of the browser's own asks the network; names of other hosts lead to the counting server
FLAGS = (
    "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--hide-scrollbars",
    "--disable-features=NetworkTimeServiceQuerying", "--enable-logging=stderr", "--log-level=0",
    "--virtual-time-budget=20000",
)  # fmt: skip
# Newer ones ask for updates of their parts all the same, whatever the page.
OWN = "update.googleapis.com/"
# A window of a headless browser has a least width above that of a phone, a frame has none.
HARNESS = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><style>body{margin:0}</style>
<iframe id="page" src="%s" style="border:0;width:%dpx;height:800px"></iframe><pre id="found"></pre><script>
const frame = document.getElementById("page");
frame.onload = () => {
  const inner = frame.contentDocument, root = inner.documentElement;
  const wide = [...inner.body.querySelectorAll("*")].filter(
    e => e.getBoundingClientRect().right > root.clientWidth + 1 && !e.closest(".scroll, .wide"));
  const images = [...inner.images];
  const found = {
    client: root.clientWidth, scroll: root.scrollWidth, height: root.scrollHeight,
    images: images.length, broken: images.filter(i => !i.complete || !i.naturalWidth).length,
    headings: [...inner.querySelectorAll("h2")].map(e => e.textContent),
    wide: wide.slice(0, 5).map(e => e.tagName + ": " + e.textContent.slice(0, 40)),
  };
  frame.style.height = root.scrollHeight + "px";
  document.getElementById("found").textContent = "FOUND" + JSON.stringify(found) + "END";
  document.getElementById("found").style.display = "none";
};
</script>"""


@dataclass(frozen=True)
class Shown:
    """What the browser found: widths and heights in CSS pixels, broken images, console lines, requests it made."""

    client: int
    scroll: int
    height: int
    images: int
    broken: int
    headings: list[str]
    wide: list[str]
    console: list[str]
    requests: list[str]


def find_browser() -> str | None:
    """Path of a Chromium, or None."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class _Counting(SimpleHTTPRequestHandler):
    asked: list[str]

    def log_message(self, format: str, *args: object) -> None:
        self.asked.append(f"{self.headers.get('Host', '') if hasattr(self, 'headers') else ''}{self.path}")


def show(page: Path, width: int, folder: Path, picture: Path | None = None) -> Shown:
    """Open ``page`` in a frame of ``width`` pixels; ``picture`` also gets a screenshot of all of it.

    Args:
        page: HTML file. folder: empty, for the browser's profile and the page's copy.
    """
    site = folder / "site"
    site.mkdir(parents=True)
    shutil.copy(page, site / "page.html")
    (site / "harness.html").write_text(HARNESS % ("page.html", width), encoding="utf-8")
    asked: list[str] = []
    handler = type("Handler", (_Counting,), {"asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        port = server.server_address[1]
        dumped = _chromium(["--dump-dom"], f"http://127.0.0.1:{port}/harness.html", port, folder / "profile")
        ours = {f"127.0.0.1:{port}/{name}" for name in ("harness.html", "page.html")}
        requests = sorted(each for each in set(asked) - ours if not each.startswith(OWN))
        match = re.search(r"FOUND(\{.*?\})END", dumped.stdout, re.S)
        assert match, f"the page did not load: {dumped.stdout[-500:]} {dumped.stderr[-2000:]}"
        found = json.loads(re.sub("&amp;", "&", match[1]).replace("&lt;", "<").replace("&gt;", ">"))
        if picture is not None:
            size = f"--window-size={max(width, 500)},{found['height']}"
            words = [f"--screenshot={picture}", size]
            _chromium(words, f"http://127.0.0.1:{port}/harness.html", port, folder / "profile")
    finally:
        server.shutdown()
        server.server_close()
    console = [line for line in dumped.stderr.splitlines() if "CONSOLE" in line]
    return Shown(**found, console=console, requests=requests)


def print_pdf(page: Path, out: Path, folder: Path) -> None:
    """Print ``page`` as the browser's print dialog would."""
    _chromium([f"--print-to-pdf={out}", "--no-pdf-header-footer"], page.resolve().as_uri(), 9, folder / "profile")


def _chromium(words: list[str], address: str, port: int, profile: Path) -> subprocess.CompletedProcess[str]:
    browser = find_browser()
    assert browser is not None
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    rules = f"--host-resolver-rules=MAP *:80 127.0.0.1:{port}, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    command = [browser, *FLAGS, *root, rules, f"--user-data-dir={profile}", *words, address]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
