"""Repeated evaluation of a finished run: `python -m ekpnet_fast.evaluate DIR`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ekpnet_fast.terminal import guarded, importing, make_console, path_argument


@guarded
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; exit code 0 if the stored numbers were reproduced exactly, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m ekpnet_fast.evaluate", description=__doc__)
    parser.add_argument("run", type=path_argument, metavar="DIR", help="folder of a finished run")
    parser.add_argument("--data-root", type=path_argument, help="where the data sets are now")
    parser.add_argument("--threads", type=int, help="CPU threads (default: the run's option)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], help="where to compute")
    options = parser.parse_args(arguments)
    # Not before, because torch takes seconds to import.
    with importing():
        from ekpnet_fast.runs.display import result_table
        from ekpnet_fast.runs.evaluate import evaluate_run, same_metrics

    found, stored = evaluate_run(options.run, options.data_root, options.threads, options.device)
    console = make_console()
    console.print(result_table({**stored, **found}))
    same = same_metrics(found, stored)
    console.print(
        "The stored numbers are reproduced exactly."
        if same
        else "These differ from the stored numbers."
    )
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
