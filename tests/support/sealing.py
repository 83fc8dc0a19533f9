"""Seals made anew, so that a test can change a file and reach the checks behind them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ekpnet_fast.storage.seals import seal_files, sealed


def reseal(manifest: Path, key: str = "files", **changes: Any) -> None:
    """Write a manifest again, with changes, and with the hashes of its files as they are now.

    Args:
        manifest: the file.
        key: of the hashes in it.
        changes: of other values in it.
    """
    content = {**json.loads(manifest.read_text()), **changes}
    content.pop("sha256", None)
    content[key] = seal_files(manifest.parent, content[key])
    manifest.write_text(json.dumps(sealed(content)))
