"""Hooks of the documentation site: generated reference pages, links out of docs/, Mermaid's script.

The pages below ``reference/`` are made from the contract, from a running server and from the command line's
parsers, when the site is built, so that they cannot differ from what they describe.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # mkdocs loads this file by its path

from tools.docs.command_line import command_line_page  # noqa: E402
from tools.docs.contract import contract_page, errors_page, load_contract  # noqa: E402
from tools.docs.server_pages import metrics_page, settings_page  # noqa: E402

MERMAID = ROOT / "tools/docs/node_modules/mermaid/dist/mermaid.min.js"

_LINK = re.compile(r"(\]\()((?:\.\./)+)([^)#\s]+)")
_EXTERNAL = re.compile(
    r"<(?:script|img|iframe)[^>]+src=\"?https?:|<link[^>]+rel=\"?stylesheet\"?[^>]+href=\"?https?:"
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages and Mermaid's script."""
    contract = load_contract(ROOT / "proto")
    pages = {
        "reference/command_line.md": command_line_page(),
        "reference/contract.md": contract_page(contract),
        "reference/errors.md": errors_page(contract),
        "reference/settings.md": settings_page(),
        "reference/metrics.md": metrics_page(),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    files.append(File.generated(config, "assets/mermaid.min.js", abs_src_path=str(MERMAID)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Sends links to files outside docs/ to the repository."""
    here = (Path(config.docs_dir) / page.file.src_uri).parent

    def absolute(link: re.Match[str]) -> str:
        target = (here / link[2] / link[3]).resolve()
        if target.is_relative_to(config.docs_dir):
            return link[0]
        if not target.exists():
            raise PluginError(f"{page.file.src_uri}: {link[2]}{link[3]} does not exist")
        kind = "tree" if target.is_dir() else "blob"
        return f"{link[1]}{config.repo_url}/{kind}/main/{target.relative_to(ROOT)}"

    return _LINK.sub(absolute, markdown)


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Rejects a page that would fetch something from another host.

    Raises:
        PluginError: it would.
    """
    found = _EXTERNAL.search(output)
    if found:
        raise PluginError(f"{page.file.src_uri} is not complete offline: {found[0]}")
    return output
