"""The doctor, on this machine and on broken copies of the package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from ekpnet_fast import build_info, doctor
from ekpnet_fast.native.cpus import Threads
from support.places import PACKAGE, ROOT
from support.programs import PATIENCE


def ask(path, *options, code=None, **changes):
    start = ["-m", "ekpnet_fast.doctor"] if code is None else ["-c", code]
    environment = {key: value for key, value in os.environ.items() if key != "EKPNET_DATA"}
    return subprocess.run(
        [sys.executable, *start, *options],
        cwd=path,
        env={**environment, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1", **changes},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_healthy(tmp_path, capsys):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "ratings_final.txt").write_text("0 0 7\n")
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "ratings_final.txt").write_text("0 0 1\n0 1 0\n")
    (tmp_path / "good" / "kg_final.txt").write_text("0 0 2\n")
    assert doctor.main(["--data-root", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert f"in use {build_info().isa}" in shown
    assert "native and reference propagation differ by" in shown
    assert "2 rows, 1 users, 2 items, 1 triples" in shown
    assert "ratings_final.txt, line 1: found label '7', expected 0 or 1" in shown
    assert shown.endswith("the core works\n")


def test_json(tmp_path):
    done = ask(PACKAGE.parent, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["healthy"]
    checks = {(check["group"], check["name"]): check for check in found["checks"]}
    assert checks["machine", "threads"]["found"] == "1 thread (OMP_NUM_THREADS is 1)"
    assert checks["data", "data root"]["remedy"].startswith("export EKPNET_DATA=DIR")
    # Whatever is not well says what to do.
    assert all(check["remedy"] for check in found["checks"] if check["status"] == "note")


@pytest.mark.parametrize(("of_torch", "status"), [(2, "ok"), (3, "note")])
def test_threads_of_torch_beyond_the_quota(monkeypatch, threads, of_torch, status):
    """Torch counts CPUs, so a program of one's own has to set what commands set."""
    reason = "2 of 64 CPUs: the cgroup quota is 1.5 CPUs, rounded up"
    monkeypatch.setattr(doctor, "choose_threads", lambda: Threads(2, reason))
    threads(of_torch)
    (check,) = (check for check in doctor.examine() if check.name == "threads")
    assert check.status == status and check.found.startswith(f"2 threads ({reason})")
    assert ("torch.set_num_threads(2)" in check.remedy) is (status == "note")


@pytest.fixture
def copied(tmp_path):
    target = tmp_path / "ekpnet_fast"
    shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def test_broken_module(copied):
    (module,) = copied.glob("_module*.so")
    module.write_text("not a library\n")
    done = ask(copied.parent)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "BROKEN  native code" in done.stdout and "pip install ." in done.stdout
    assert "self-check" not in done.stdout and "the core does not work" in done.stdout
    # Only the doctor gets past a broken module.
    assert "NativeLibraryError" in ask(copied.parent, code="import ekpnet_fast.ops").stderr


def test_broken_library(copied):
    library = copied / "libekpnet_cpu.so"
    library.write_bytes(library.read_bytes()[:-100])
    done = ask(copied.parent)
    assert done.returncode == 1
    assert "BROKEN  ops" in done.stdout and "file cut off" in done.stdout


def test_missing_packages():
    blocked = (
        "import sys; sys.modules.update(dict.fromkeys(['duckdb', 'jsonargparse', 'rich']));"
        "from ekpnet_fast.doctor import main; sys.exit(main([]))"
    )
    done = ask(PACKAGE.parent, code=blocked)
    assert done.returncode == 0, done.stderr  # training from Python works without them
    for name in ("duckdb", "jsonargparse", "rich"):
        assert f"-> pip install {name}" in done.stdout
    blocked = blocked.replace("['duckdb', 'jsonargparse', 'rich']", "['safetensors']")
    done = ask(PACKAGE.parent, code=blocked)
    assert done.returncode == 1 and "-> pip install safetensors" in done.stdout


def test_wrong_numbers_are_broken(monkeypatch):
    monkeypatch.setattr(doctor, "_difference", lambda: float("nan"))
    (check,) = (check for check in doctor.examine() if check.group == "self-check")
    assert check.status == "broken" and check.remedy


def test_every_extra_is_explained():
    text = (ROOT / "pyproject.toml").read_text()
    block = text.split("[project.optional-dependencies]")[1].split("\n[")[0]
    extras = {line.split(" = ")[0] for line in block.splitlines() if " = [" in line}
    assert extras == set(doctor._EXTRAS)
