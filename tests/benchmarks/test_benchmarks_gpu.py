"""The GPU measurements, tried at tiny sizes on the CPU, with nothing installed that a bare GPU
machine may lack."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import ekpnet_fast
from benchmarks.gpu.goals import GOALS, found_of
from benchmarks.gpu.parts import Parts, Stopped
from support.places import ROOT
from support.programs import PATIENCE

# Modules that only reading files, options and progress need.
LACKING = ["backports", "duckdb", "jsonargparse", "pooch", "pyoxigraph", "rich"]
BLOCKED = f"import sys; sys.modules.update(dict.fromkeys({LACKING}));"


# Parts that goals are about, behind the two ceilings; compilers, which take long, come last.
OF_GOALS = r"data set 1|run[, ]|ripple_attention, .*float32|step, \d+ entities"


def run(code, *arguments):
    path = os.pathsep.join([str(ROOT), str(Path(ekpnet_fast.__file__).parents[1])])
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + code, *arguments],
        # Tiny sizes are not worth a second thread.
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_everything_is_measured(tmp_path):
    output = tmp_path / "gpu.json"
    done = run(
        "from benchmarks.gpu.__main__ import main; sys.exit(main(sys.argv[1:]))",
        *("--device", "cpu", "--quick", "--output", str(output)),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    assert not found["failed"] and not found["left_out"] and found["stopped"] is None
    assert (tmp_path / "gpu.md").read_text() in done.stdout
    assert {r["stage"] for r in found["steps"]} == {"pretrain", "train"}
    # EKPNet+ is validated once more, before its first epoch.
    epochs = {r["model"]: r["epochs"] for r in found["end_to_end"]}
    assert epochs == {"ekpnet": 2, "ekpnet_plus": 3}
    assert {r["stage"] for r in found["kernels"]} == {"pretrain", "train"}
    assert any("ekpnet_gradients" in r["kernel"] for r in found["kernels"])
    for key in ("ranking", "attention", "layers", "row_adam", "scale"):
        assert found[key] and f"{found[key][0]}"
    for record in found["attention"]:
        assert record["forward_share_of_floor"] > 0
    # A measurement that is cut off has what goals are about.
    begun = re.findall(r"^\[ *\d+ s\] (.*)$", done.stderr, re.MULTILINE)
    of_goals = [begun.index(name) for name in begun if re.match(OF_GOALS, name)]
    assert of_goals == list(range(2, 2 + len(of_goals)))
    goals = {goal.work for goal, *_ in found_of(found)}
    assert goals == {goal.work for goal in GOALS.values()}
    titles = (
        "Goals",
        "Whole runs",
        "Training step",
        "Kernels of a step",
        "Top lists",
        "ripple_attention",
    )
    for title in (*titles, "deep_score", "row_adam_", "Step by size"):
        assert f"### {title}" in done.stdout
    assert f"- device: cpu\n- torch: {found['facts']['torch']}" in done.stdout


def test_part_that_fails_stops_no_other(tmp_path):
    output = tmp_path / "gpu.json"
    done = run(
        "from benchmarks.gpu import __main__ as gpu\n"
        "def broken(work): raise TypeError('no such thing')\n"
        "gpu.training.end_to_end = gpu.training.resolve = gpu.training.rank = broken\n"
        "gpu.float32_operations_per_second = broken\n"
        "sys.exit(gpu.main(sys.argv[1:]))",
        *("--device", "cpu", "--quick", "--output", str(output)),
    )
    assert done.returncode == 1
    found = json.loads(output.read_text())
    broken = {"run, tiny", "run of EKPNet+, tiny", "ranking, tiny", "float32_operations_per_s"}
    assert set(found["failed"]) == broken
    for why in found["failed"].values():
        assert why.startswith("Traceback") and why.splitlines()[-1].startswith("TypeError: ")
    assert found["end_to_end"] == found["ranking"] == []
    assert found["steps"] and found["attention"] and found["row_adam"] and found["scale"]
    assert "- run, tiny: TypeError: no such thing" in (tmp_path / "gpu.md").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_measurement_leaves_what_it_found(tmp_path, number):
    """The signal comes in a part, after others."""
    output = tmp_path / "gpu.json"
    done = run(
        "import os\n"
        "from benchmarks.gpu import __main__ as gpu\n"
        f"gpu.training.rank = lambda work: os.kill(os.getpid(), {int(number)})\n"
        "sys.exit(gpu.main(sys.argv[1:]))",
        *("--device", "cpu", "--quick", "--output", str(output)),
    )
    found = json.loads(output.read_text())
    assert found["end_to_end"] and found["steps"] and len(found["scale"]) == 2
    assert found["attention"] and found["steps"]
    assert found["ranking"] == found["layers"] == [] and found["failed"] == {}
    tables = (tmp_path / "gpu.md").read_text()
    assert "### Step by size of the table" in tables
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.json", "gpu.md"]
    if number == signal.SIGTERM:
        assert done.returncode == 1 and found["stopped"] == "SIGTERM"
        assert "Stopped before the end: SIGTERM." in tables
    else:
        assert done.returncode == -number and found["stopped"] is None


def test_no_part_begins_when_time_is_up(tmp_path):
    output = tmp_path / "gpu.json"
    done = run(
        "from benchmarks.gpu.__main__ import main; sys.exit(main(sys.argv[1:]))",
        *("--device", "cpu", "--quick", "--seconds", "0", "--output", str(output)),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    assert "copy_bytes_per_s" in found["left_out"] and not found["steps"]
    assert "Left out, for want of time: copy_bytes_per_s" in done.stdout


def test_device_that_no_longer_answers_ends_the_measurement(monkeypatch, tmp_path):
    def synchronize(device):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    parts = Parts(tmp_path / "x.json", torch.device("cuda"), {}, lambda found: "")
    found = []
    with pytest.raises(Stopped, match="no longer answers after first: an illegal memory access"):
        parts.run("first", lambda: 1, found.append)
    assert found == [1]


def test_tests_of_the_gpu_can_be_collected():
    tests = ROOT / "tests"
    others = [tests / "native", tests / "training", tests / "models" / "test_every_model.py"]
    files = [tests / "ops", *others]
    done = run(
        "import pytest; sys.exit(pytest.main(sys.argv[1:]))",
        *("--collect-only", "-q", "-m", "cuda", "-p", "no:cacheprovider"),
        *(f"--rootdir={ROOT}", f"-c{ROOT / 'pyproject.toml'}"),
        *map(str, files),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_compute_sanitizer[memcheck]" in done.stdout
    assert "test_gpu_smoke.py" in done.stdout
    assert "test_every_model.py" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_script_says_what_is_missing(tmp_path):
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "gpu.sh"), str(tmp_path / "out")],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert "finds no GPU" in done.stderr


# Stands for python3 of a machine with a GPU on which the smoke test fails, or hangs.
STANDS_FOR_PYTHON = """#!/bin/bash
echo "$*" >>"$CALLS"
case "$*" in
  -) echo 9.0 ;;
  *benchmarks.gpu*) while [ "$1" != --output ]; do shift; done; echo tables >"${2%.json}.md" ;;
  *"cuda and smoke"*)
    echo "FAILED a test"
    [ -z "$HANGS" ] || { sleep 600 & echo $! >"$HANGS.part"; mv "$HANGS.part" "$HANGS"; wait; }
    exit 1 ;;
esac
"""


def script_with_a_stand_in(tmp_path, **environment):
    """Arguments of `subprocess` for the script on a machine that has a GPU, as it seems."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("python3", STANDS_FOR_PYTHON), ("cmake", "#!/bin/bash\n")):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    given = {"PATH": f"{tools}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}
    return {
        "args": ["bash", str(ROOT / "benchmarks" / "gpu.sh"), str(tmp_path / "out")],
        "env": {**os.environ, **given, "HANGS": "", **environment},
        "text": True,
    }


def test_script_goes_on_after_a_part_that_failed(tmp_path):
    asked = script_with_a_stand_in(tmp_path)
    asked["args"] += ["--data-root", "there"]
    done = subprocess.run(**asked, capture_output=True, timeout=PATIENCE, check=False)
    out = tmp_path / "out"
    assert done.returncode == 1, done.stderr
    assert "build 0 smoke 1 measure 0 test 0 sanitizer 0" in done.stdout.splitlines()[-1]
    assert "tables" in done.stdout
    for said in (done.stdout, (out / "smoke.log").read_text()):
        assert said.count("FAILED a test") == 1
    parts = ("cuda and smoke", "benchmarks.gpu", "not compute_sanitizer", "-k compute_sanitizer")
    said = (tmp_path / "calls").read_text()
    assert [said.index(part) for part in parts] == sorted(said.index(part) for part in parts)
    assert "--data-root there" in said
    # Few enough to bring home from anywhere; the stand-in writes no gpu.json.
    logs = {f"{part}.log" for part in ("build", "smoke", "measure", "tests", "sanitizer")}
    assert {path.name for path in out.iterdir()} == {"gpu.md", *logs}
    assert (out / "build.log").read_text().strip()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_script_ends_its_part_by_a_signal_and_tells_what_it_knows(tmp_path, number):
    hangs = tmp_path / "hangs"
    asked = script_with_a_stand_in(tmp_path, HANGS=str(hangs))
    deadline = time.monotonic() + PATIENCE
    with subprocess.Popen(
        **asked,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # What was ignored when a shell began, as in the background of another, it cannot heed.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    ) as script:
        try:
            while not hangs.exists():
                assert script.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            script.send_signal(number)
            said, _ = script.communicate(timeout=PATIENCE)
        finally:
            script.kill()
    assert script.returncode == 128 + number
    assert f"== stopped by {number.name}" in said
    # The part ends by SIGTERM; where it is gone at once, the shell knows its own signal alone.
    assert re.search(rf"build 0 smoke (143|{128 + number});", said.splitlines()[-1])
    assert said.count("FAILED a test") == 1
    assert "FAILED a test" in (tmp_path / "out" / "smoke.log").read_text()
    assert "benchmarks.gpu" not in (tmp_path / "calls").read_text()
    child = int(hangs.read_text())
    while os.path.exists(f"/proc/{child}"):  # what a part began ends with it
        assert time.monotonic() < deadline
        time.sleep(0.05)
