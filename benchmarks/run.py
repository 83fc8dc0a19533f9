"""Suite runner: measure, store, make the page. `python -m benchmarks.run [SUITE ...]`.

Each suite runs in a process of its own, so that its peak memory is its own. Options after `--` go
to pytest, such as `-- --large`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import facts, render, results

HERE = Path(__file__).parent


def measure(suite: str, options: list[str]) -> tuple[int, dict[str, Any] | None]:
    """Run one suite: the exit status of pytest, and its measurements."""
    script = HERE / "suites" / f"bench_{suite}.py"
    root = str(HERE.parent)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "found.json"
        command = [f"--benchmark-json={output}", "--benchmark-only", *options]
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), root]))
        status = subprocess.run(
            [sys.executable, "-m", "pytest", str(script.relative_to(root)), *command],
            cwd=root,
            env={**os.environ, "PYTHONPATH": path},
        ).returncode
        found = output.read_text(encoding="utf-8") if output.is_file() else ""
    return status, json.loads(found) if found else None


def main() -> int:
    """Run the suites; returns the exit status: 1 where a suite failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=", ".join(results.SUITES))
    parser.add_argument("--output", type=Path, default=results.FOLDER, help="folder of results")
    own, _, rest = _split(sys.argv[1:])
    arguments = parser.parse_args(own)
    unknown = set(arguments.suites) - set(results.SUITES)
    if unknown:
        known = ", ".join(results.SUITES)
        parser.error(f"found suite {', '.join(sorted(unknown))}, expected some of {known}")
    failed: list[str] = []
    skipped: list[str] = []
    for suite in arguments.suites or results.SUITES:
        started = time.perf_counter()
        status, found = measure(suite, rest)
        if found is None or not found["benchmarks"]:
            line = f"{suite}: nothing was measured (pytest ended with {status})"
            (failed if status else skipped).append(line)
            continue
        if status != 0:
            failed.append(f"{suite}: pytest ended with {status}, not stored")
            continue
        found["machine_info"]["seconds"] = round(time.perf_counter() - started)
        path = results.store(arguments.output, suite, facts.machine_kind(), found)
        print(f"{suite}: {path}", flush=True)
    if arguments.output == results.FOLDER:
        render.write()
    for line in skipped + failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0


def _split(words: list[str]) -> tuple[list[str], str, list[str]]:
    """Split the words before and after `--`."""
    if "--" not in words:
        return words, "", []
    at = words.index("--")
    return words[:at], "--", words[at + 1 :]


if __name__ == "__main__":
    sys.exit(main())
