"""Export of the scoring model as ONNX: `python -m ekpnet_fast.export RUN out.onnx`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ekpnet_fast.recommender.command import add_run, opened
from ekpnet_fast.terminal import guarded, path_argument, say


@guarded
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, 2 for an error that the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m ekpnet_fast.export",
        description="Write the scoring model of the EKPNet family as ONNX: ripple sets of one user"
        " and items in, logits out.",
    )
    add_run(parser)
    parser.add_argument("out", type=path_argument, metavar="FILE.onnx", help="the file to write")
    options = parser.parse_args(arguments)

    difference = opened(options).export(options.out)
    say(
        f"Written to {options.out}: {options.out.stat().st_size / 2**20:.1f} MB; onnxruntime"
        f" gives the same logits up to {difference:.1e}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
