"""Web page: its parts are beside this file and are sent as one document, whole in itself."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Page:
    """Page: the document, and the policy that lets nothing but its own parts run.

    Attributes:
        content: UTF-8 HTML.
        policy: the value of Content-Security-Policy.
    """

    content: bytes
    policy: str


def build() -> Page:
    """Put style and scripts into the document, and allow each by its hash."""
    hashes: dict[str, list[str]] = {"style": [], "script": []}

    def inline(found: re.Match[str]) -> str:
        tag = "style" if found["style"] else "script"
        text = (FOLDER / (found["style"] or found["script"])).read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(f"\n{text}".encode()).digest()).decode()
        hashes[tag].append(f"'sha256-{digest}'")
        return f"<{tag}>\n{text}</{tag}>"

    parts = (
        r'<link rel="stylesheet" href="(?P<style>[^"]+)">|<script src="(?P<script>[^"]+)"></script>'
    )
    document = re.sub(parts, inline, (FOLDER / "page.html").read_text(encoding="utf-8"))
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(hashes['script'])}",
            f"style-src {' '.join(hashes['style'])}",
            "connect-src 'self'",
            "img-src data:",  # the icon
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",  # no text of data can become markup
        ]
    )
    return Page(document.encode(), policy)
