"""Command line `ekpnet COMMAND ...`: the same as `python -m ekpnet_fast.COMMAND ...`.

Nothing is imported before the command is known, so that one that needs little starts quickly and
`ekpnet doctor` runs where something is broken.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

from ekpnet_fast.terminal import guarded

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "train": "train a model and report test metrics",
    "evaluate": "evaluate a finished run again",
    "recommend": "the best items for a user, a history, or everybody",
    "refresh": "fit anew what new clicks, items and triples left as it was",
    "explain": "why an item is recommended",
    "export": "write the scoring model as ONNX",
    "serve": "answer over HTTP",
    "data": "import, fetch, export and describe data sets",
    "experiments": "the paper's tables and figures",
    "doctor": "what works here, and why not",
}
_FOLDERS = ("data", "experiments", "serve")  # packages, whose command is their __main__


@guarded
def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    known = {name: text for name, text in COMMANDS.items() if find_spec(f"ekpnet_fast.{name}")}
    listed = "\n".join(f"  {name:12} {text}" for name, text in known.items())
    parser = argparse.ArgumentParser(
        prog="ekpnet",
        description=f"Recommending over a knowledge graph.\n\n{listed}",
        epilog="`ekpnet COMMAND --help` says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", metavar="COMMAND", choices=known, help="see above")
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(words[:1])
    name = f"ekpnet_fast.{options.command}"
    module = import_module(f"{name}.__main__" if options.command in _FOLDERS else name)
    code: int = module.main(words[1:])
    return code


if __name__ == "__main__":
    sys.exit(main())
