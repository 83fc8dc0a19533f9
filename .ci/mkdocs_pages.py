"""A hook of mkdocs: the benchmark page, which stands outside docs/, becomes a page of the site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: Any) -> Files:
    """Add the page and its pictures."""
    folder = ROOT / "benchmarks"
    for path in [folder / "README.md", *sorted((folder / "plots").glob("*.svg"))]:
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links to where the page stands on the site."""
    if page.file.src_uri.startswith("benchmarks/"):
        return markdown
    return markdown.replace("](../benchmarks/", "](benchmarks/")
