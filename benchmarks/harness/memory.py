"""Resident memory of this process, where the kernel counts it (Linux)."""

from __future__ import annotations

from pathlib import Path

_PROC = Path("/proc/self")


def reset_peak() -> None:
    """Start `peak_mb` anew."""
    if _PROC.is_dir():
        (_PROC / "clear_refs").write_text("5")


def peak_mb() -> float | None:
    """Largest resident memory since `reset_peak`, MB."""
    return _status_mb("VmHWM")


def resident_mb() -> float | None:
    """Resident memory now, MB."""
    return _status_mb("VmRSS")


def _status_mb(field: str) -> float | None:
    if not _PROC.is_dir():
        return None
    lines = (_PROC / "status").read_text().splitlines()
    values = [line.split()[1] for line in lines if line.startswith(field + ":")]
    return int(values[0]) / 1024 if values else None
