"""What mkdocs does besides: pages made of the code, documents of the repository, and links that fit both places.

A guide is read in the repository and on the site. A link in it names a file of the repository; on the site it leads to
the page of that file, and is plain text where the file is no page.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import api_pages
import command_pages
import schema_pages
from prose import example

# documents of the repository -> where they stand on the site
DOCUMENTS = {
    "README.md": "project/readme.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "configs/pretrain/SPECIMENS.md": "project/specimens.md",
    "configs/pretrain/SEARCH.md": "project/search.md",
    "configs/downstream/RESULTS.md": "project/results.md",
}
LINK = re.compile(r"(?<!!)\[([^\]]+?)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")


def generated() -> dict[str, str]:
    """Pages made of the code: place on the site -> Markdown."""
    from downstream.benchmark.suite import SuiteConfig
    from downstream.tasks.config import FinetuneConfig
    from pretrain.config import PretrainConfig
    from specfm.cards import card

    over = "Any key can be given on the command line as well, `section.key=value`."
    return {
        "reference/commands.md": command_pages.page(),
        "reference/api.md": api_pages.page(),
        "reference/cards.md": schema_pages.page(
            "What a dataset card may say",
            "A card is a YAML file that turns a folder of files into scenes; `specfm inspect FILE --card my.yaml` "
            "begins one. Keys of a part may stand at the top of a card: they then hold for all its parts, and a card "
            "of one part needs no list. Unknown keys are refused, and all problems of a card are told at once.\n\n"
            f"{example(card)}",
            card.Card, "The card",
        ),
        "reference/pretraining.md": schema_pages.page(
            "Configuration of a pretraining",
            f"What `specfm pretrain CONFIG` reads. {over} `configs/pretrain/` has examples with their cost.",
            PretrainConfig, "The run",
        ),
        "reference/finetuning.md": schema_pages.page(
            "Configuration of a fine-tuning",
            f"What `specfm finetune CONFIG` reads. {over} `configs/downstream/` has examples.",
            FinetuneConfig, "The run",
        ),
        "reference/suites.md": schema_pages.page(
            "Configuration of a benchmark",
            "What `specfm benchmark SUITE` reads, such as `configs/downstream/real.yaml`.",
            SuiteConfig, "The suite",
        ),
    }  # fmt: skip


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that do not lie in the folder of guides."""
    for place, text in generated().items():
        files.append(File.generated(config, place, content=text))
    for document, place in DOCUMENTS.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / document)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links to files of the repository become links to their pages, or plain text."""
    names = {place: document for document, place in DOCUMENTS.items()}
    guides = Path(config.docs_dir).relative_to(ROOT)
    here = Path(names.get(page.file.src_uri, guides / page.file.src_uri)).parent

    def mended(found: re.Match[str]) -> str:
        text, target, anchor = found[1], os.path.normpath(here / found[2]), found[3] or ""
        place = DOCUMENTS.get(target)
        if place is None and not target.startswith(f"{guides}{os.sep}"):
            return text if (ROOT / target).exists() else found[0]  # what is nowhere is left for mkdocs to refuse
        place = place or os.path.relpath(target, guides)
        return f"[{text}]({os.path.relpath(place, Path(page.file.src_uri).parent)}{anchor})"

    return LINK.sub(mended, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Notebooks come with scripts of other hosts, for formulas and diagrams that they do not hold."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    scripts = re.compile(r"<script\b[^>]*>.*?</script>", flags=re.DOTALL)
    html = scripts.sub(lambda found: "" if re.search(r"https?://|mathjax", found[0], re.IGNORECASE) else found[0], html)
    return html
