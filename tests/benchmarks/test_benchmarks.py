"""How benchmark results are stored, compared and turned into the page."""

from __future__ import annotations

import copy
import json
import os
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch

from benchmarks.harness import goals, operation_counts, render, results, worker_protocol
from benchmarks.harness.compare import Comparison, alternate
from benchmarks.peers import plain_torch
from ekpnet_fast.ops import Propagation, reference
from support.places import ROOT

MACHINE = {
    "processor": "Some CPU",
    "cores": 2,
    "memory_gb": 8,
    "isa": "avx2",
    "torch": "2.13.0",
    "torch_isa": "AVX2",
    "numpy": "2.4",
    "python": "3.11",
    "compiler": "cc 1",
    "load": 0.5,
    "commit": "abc1234",
    "date": "2026-01-02",
    "command": "pytest benchmarks/suites/bench_step.py --benchmark-only",
}


def benchmark(name="test_both_stages[movielens]", median=0.0125, **info):
    return {
        "group": "training, both stages",
        "name": name,
        "fullname": "benchmarks/suites/bench_step.py::" + name,
        "params": {"data": "movielens"},
        "extra_info": {"threads": 2, "samples_per_s": 655360.123456789, **info},
        "stats": {
            "min": 0.012,
            "max": 0.02,
            "median": median,
            "iqr": 0.001,
            "rounds": 40,
            "mean": 0.013,
            "data": [0.0125] * 40,
        },
    }


@pytest.fixture
def measured():
    """What pytest-benchmark wrote: one goal reached, one missed."""
    info = {}
    Comparison(1e-6, 4e-4, 350.0, 420.0, 401.0).write(info, "plain RippleNet")
    info["goals"] = {
        "step_movielens_plain": {"value": 400.0, "range": [350.0, 420.0]},
        "step_movielens_grouped": {"value": 4.5, "range": [4.0, 5.0]},
    }
    return {
        "datetime": "2026-01-02T10:00:00",
        "machine_info": MACHINE,
        "commit_info": {"id": "abc"},
        "version": "5",
        "benchmarks": [benchmark(**info)],
    }


def test_store_keeps_what_the_page_needs(tmp_path, measured):
    path = results.store(tmp_path, "step", "some-cpu", measured)
    assert path.name == "step-some-cpu.json"
    stored = json.loads(path.read_text())
    (entry,) = stored["benchmarks"]
    assert entry["stats"] == {
        "min": 0.012,
        "max": 0.02,
        "median": 0.0125,
        "iqr": 0.001,
        "rounds": 40,
    }
    assert entry["extra_info"]["samples_per_s"] == 655360.0
    assert stored["machine_info"] == MACHINE


def test_newest_result_of_a_suite_counts(tmp_path, measured):
    results.store(tmp_path, "step", "b-machine", measured)
    newer = copy.deepcopy(measured)
    newer["datetime"] = "2026-01-03T09:00:00"
    results.store(tmp_path, "step", "a-machine", newer)
    results.store(tmp_path, "ops", "a-machine", measured)
    found = results.newest(tmp_path)
    assert list(found) == ["step", "ops"]  # the order of the page
    assert found["step"]["datetime"] == newer["datetime"]


@pytest.mark.parametrize("text", ["{", "{}", '{"suite": "ops", "datetime": "2026"}'])
def test_a_file_that_is_no_result_is_named(tmp_path, text):
    path = tmp_path / "step-x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"step-x\.json: found .* expected a result"):
        results.newest(tmp_path)


def test_page_without_results_says_how_to_get_some(tmp_path):
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    with pytest.raises(ValueError, match=r"found no result, .* python -m benchmarks\.run"):
        render.write(tmp_path, tmp_path)


def test_goals_are_judged_from_the_data(tmp_path, measured):
    results.store(tmp_path, "step", "m", measured)
    text = render.goals_text(results.newest(tmp_path))
    count = len(goals.GOALS)
    assert text.startswith(f"1 of {count} goals were reached, 1 missed, {count - 2} not measured.")
    lines = {
        line.split(" | ")[1]: line for line in text.splitlines() if "MovieLens setting" in line
    }
    plain = lines["plain-torch sample-by-sample RippleNet, fed by a loop over users"]
    assert plain.endswith("| ≥ 350x, stretch 700x | 400x (350 - 420) | reached |")
    assert (
        "| 4.5x (4 - 5) | **missed** |"
        in lines["the same trainer in eager torch, with user groups"]
    )


def test_an_upper_bound_is_reached_from_below():
    goal = goals.Goal("w", "a", 1.3, at_most=True)
    assert goal.met(1.2) and not goal.met(1.4)
    assert goal.bound_text() == "≤ 1.3x"
    assert not goals.Goal("w", "a", 5).met(4.9)


def test_goal_of_a_share_is_in_percent():
    info = {}
    goals.reach(info, "floor", Comparison(2.0, 1.0, 0.4, 0.6, 0.5))
    assert info["goals"]["floor"] == {"value": 50.0, "range": [40.0, 60.0]}
    assert goals.reached.pop("floor") == info["goals"]["floor"]


def test_table_shows_rates_and_peers(tmp_path, measured):
    results.store(tmp_path, "step", "m", measured)
    text = render.text_of(results.newest(tmp_path), {"step": "plots/step.svg"})
    assert "|  | threads | median time | samples/s | x faster than plain RippleNet |" in text
    assert "| MovieLens | 2 | 12.5 ms | 655,360 | 400 (350 - 420) |" in text
    assert "![Training step](plots/step.svg)" in text
    for fact in ("Some CPU, 2 cores, 8 GB", "commit abc1234", f"`{MACHINE['command']}`"):
        assert fact in text


def test_plots_are_the_same_bytes_again(tmp_path, measured):
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    stored = tmp_path / "results"
    results.store(stored, "step", "m", measured)
    scale = copy.deepcopy(measured)
    scale["benchmarks"] = [
        benchmark(f"test_entities[{n}]", n / 1e7, entities=n, peak_mb=n / 1e4)
        for n in (10**5, 10**6)
    ]
    results.store(stored, "scale", "m", scale)
    pages = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        pages.append(render.write(stored, tmp_path / name))
    files = sorted((tmp_path / "first" / "plots").iterdir())
    assert [path.stem for path in files] == ["goals", "scale", "step"]
    for path in files:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        assert path.read_bytes() == (tmp_path / "second" / "plots" / path.name).read_bytes()
    assert pages[0].read_text() == pages[1].read_text()
    scaled = (tmp_path / "first" / "plots" / "scale.svg").read_text()
    assert "number of entities" in scaled and "peak memory, MB" in scaled


def test_the_page_in_the_repository_is_made_from_the_stored_results():
    found = results.newest(results.FOLDER)
    plots = sorted((ROOT / "benchmarks" / "plots").glob("*.svg"))
    drawn = {path.stem: f"plots/{path.name}" for path in plots}
    assert (ROOT / "benchmarks" / "README.md").read_text() == render.text_of(found, drawn)


def test_turns_alternate_and_each_opens_untimed():
    calls = []
    alternate(lambda: calls.append("a"), lambda: calls.append("b"), rounds=2, calls=(1, 2))
    assert "".join(calls) == "aabbb" + "bbbaa"


def test_worker_does_the_calls_in_another_process(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        f"import os, sys; sys.path.append({str(ROOT)!r})\n"
        "from benchmarks.harness.worker_protocol import serve\n"
        "def job(name):\n"
        "    print('libraries print')\n"
        "    return len(name)\n"
        "serve(job, lambda: {'pid': os.getpid()})\n"
    )
    with worker_protocol.Worker([str(script)], log=tmp_path / "log") as worker:
        reply = worker(4, "abc")
    assert reply.samples == 12 and reply.seconds > 0
    assert reply.facts["pid"] != os.getpid()
    assert "libraries print" in (tmp_path / "log").read_text()


def test_worker_that_ends_early_says_why(tmp_path):
    script = tmp_path / "job.py"
    script.write_text("raise SystemExit('no such thing')")
    with pytest.raises(RuntimeError, match="exit status 1: no such thing"):
        worker_protocol.Worker([str(script)], log=tmp_path / "log")


def test_operations_of_the_smallest_propagation_by_hand():
    """G = B = H = M = D = 1, so every product of eq. 8 to 16 can be counted on fingers."""
    ids = torch.zeros(1, 1, 1, dtype=torch.int32)
    arguments = (
        torch.ones(1, 2, 1),
        torch.ones(1, 2, 1),
        torch.ones(1, 1),
        torch.ones(1),
        ids,
        ids,
        ids,
        torch.ones(1, 1, dtype=torch.int32),
        torch.tensor([0, 1]),
        torch.zeros(1, dtype=torch.int32),
    )
    found = operation_counts.attention_work(arguments)
    # Two projections with a sum: 7. Eq. 9 to 11: 9. Eq. 14 and 12: 4. Eq. 15: 2.
    assert found["forward"].operations == 7 + 9 + 4 + 2
    # Again the forward pass and the tile; per slot 12, per hop 8, per slot's rows 14.
    assert found["backward"].operations == 22 + 7 + 12 + 8 + 14
    # One entity row, one relation row, W_e, b_e, seven ids (one pointer pair), z and match.
    assert found["forward"].bytes == 4 * (2 + 2 + 1 + 1) + 4 * 5 + 16 + 4 * 3


def test_masked_slots_are_no_work():
    ids = torch.zeros(1, 1, 4, dtype=torch.int32)

    def operations(valid):
        return operation_counts.attention_work(
            (
                torch.ones(1, 2, 3),
                torch.ones(1, 2, 3),
                torch.ones(3, 3),
                torch.ones(3),
                ids,
                ids,
                ids,
                torch.tensor([[valid]], dtype=torch.int32),
                torch.tensor([0, 2]),
                torch.zeros(2, dtype=torch.int32),
            )
        )["forward"].operations

    step = operations(1) - operations(0)
    assert operations(4) - operations(0) == pytest.approx(4 * step)
    assert step > 0


def test_plain_torch_peer_computes_the_same_logits():
    """What the sample-by-sample EKPNet is timed on is the model's own arithmetic."""
    draw = torch.Generator().manual_seed(0)
    E, R, B, H, M, D, layers = 9, 3, 5, 2, 4, 3, 3
    K = (H + 1) * D

    def reals(*size):
        return torch.randn(size, generator=draw)

    def ids(limit, *size):
        return torch.randint(limit, size, generator=draw)

    entity, relation, W_e, b_e = reals(E, 2, D), reals(R, 2, D), reals(D, D), reals(D)
    weights, biases = reals(layers - 1, K, K), reals(layers - 1, K)
    w_out, b_out = reals(K), reals(1)
    heads, relations, tails, items = ids(E, B, H, M), ids(R, B, H, M), ids(E, B, H, M), ids(E, B)
    propagation = Propagation(
        *(entity, relation, W_e, b_e, heads, relations, tails),
        *(torch.full((B, H), M), torch.arange(B + 1), items),  # a group of one pair each
    )
    z, _ = reference.ripple_attention(propagation)
    expected = reference.deep_score(z, weights, biases, w_out, b_out)

    setting = SimpleNamespace(
        shape=SimpleNamespace(width=D, hops=H, layers=layers),
        graph=SimpleNamespace(num_entities=E, num_relations=R),
        config=SimpleNamespace(train=None),
    )
    model = plain_torch.EKPNet(setting)
    hidden = [layer for layer in model.layers if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        model.entity.weight.copy_(entity[:, 0])
        model.gamma.weight.copy_(entity[:, 1])
        model.relation.weight.copy_(relation[:, 0])
        model.gamma_relation.weight.copy_(relation[:, 1])
        for layer, W, b in zip(
            [model.update, *hidden],
            [W_e, *weights, w_out[:, None]],
            [b_e, *biases, b_out],
            strict=True,
        ):
            layer.weight.copy_(W.T)
            layer.bias.copy_(b)
        columns = [list(x.unbind(1)) for x in (heads, relations, tails)]
        found, _ = model.logits(plain_torch.Batch(items, torch.zeros(B), *columns))
    torch.testing.assert_close(found, expected)
