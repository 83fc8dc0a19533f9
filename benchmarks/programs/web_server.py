"""Web server in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

PATIENCE = 600  # seconds, for machines that do other things too


class Served:
    """Server `python -m ekpnet_fast.serve` on a free port. A context manager.

    Args:
        run: the folder to serve.
        options: of the command.
    """

    def __init__(self, run: Path, *options: str) -> None:
        command = [sys.executable, "-m", "ekpnet_fast.serve", str(run), "--port", "0", *options]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=run.parent,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self.errors: list[str] = []
        threading.Thread(target=self._keep_errors, daemon=True).start()
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()
        try:
            self.said = lines.get(timeout=PATIENCE)
            found = re.search(r"http://\S+", self.said)
            assert found, f"found {self.said!r} {''.join(self.errors)}, expected an address"
        except BaseException:
            self.process.kill()
            raise
        self.address = found[0]
        self.lines = lines

    def _read(self, lines: queue.Queue[str]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            lines.put(line)
        lines.put("")

    def _keep_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors.extend(self.process.stderr)

    def cpu_seconds(self) -> float:
        """CPU time of all its threads since it was started."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it by a signal; returns its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
