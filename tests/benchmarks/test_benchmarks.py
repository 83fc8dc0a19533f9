"""Benchmark results and their page, comparisons, worker processes, counts and peers."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest
import torch

from benchmarks.harness import goals, operation_counts, render, results, series, worker_protocol
from benchmarks.harness.compare import Comparison, alternate
from benchmarks.peers import plain_torch
from ekpnet_fast.ops import Propagation, reference
from support.places import ROOT


def benchmark(**info):
    """What pytest-benchmark writes of one benchmark."""
    return {
        "group": "training, both stages",
        "name": "test_both_stages[movielens]",
        "fullname": "benchmarks/suites/bench_step.py::test_both_stages[movielens]",
        "params": {"data": "movielens", "op_threads": 2},
        "extra_info": info,
        "stats": {
            **{"min": 0.012, "max": 0.02, "median": 0.0125, "iqr": 0.001, "rounds": 40},
            **{"mean": 0.013, "data": [0.0125] * 40},
        },
    }


def measured(*benchmarks, time="2026-01-02T10:00:00"):
    """What pytest-benchmark writes of a suite."""
    return {"datetime": time, "machine_info": {}, "version": "5", "benchmarks": [*benchmarks]}


def test_store_keeps_what_the_page_needs(tmp_path):
    path = results.store(tmp_path, "step", "m", measured(benchmark(samples_per_s=655360.123456789)))
    assert path.name == "step-m.json"
    (entry,) = json.loads(path.read_text())["benchmarks"]
    assert sorted(entry) == ["extra_info", "group", "name", "params", "stats"]
    assert sorted(entry["stats"]) == ["iqr", "max", "median", "min", "rounds"]
    assert entry["extra_info"] == {"samples_per_s": 655360.0}


def test_newest_result_of_a_suite_counts(tmp_path):
    newer = "2026-01-03T09:00:00"
    results.store(tmp_path, "step", "b-machine", measured(benchmark()))
    results.store(tmp_path, "step", "a-machine", measured(benchmark(), time=newer))
    results.store(tmp_path, "ops", "a-machine", measured(benchmark()))
    found = results.newest(tmp_path)
    assert list(found) == ["step", "ops"]  # the order of the page
    assert found["step"]["datetime"] == newer


@pytest.mark.parametrize("text", ["{", "{}", '{"suite": "ops", "datetime": "2026"}'])
def test_a_file_that_is_no_result_is_named(tmp_path, text):
    path = tmp_path / "step-x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"step-x\.json: found .* expected a result"):
        results.newest(tmp_path)


def test_every_suite_is_a_file_and_a_section():
    suites = (ROOT / "benchmarks" / "suites").glob("bench_*.py")
    assert sorted(f"bench_{suite}" for suite in results.SUITES) == sorted(p.stem for p in suites)
    assert set(render.SECTIONS) == set(render.NOTES) == set(results.SUITES)


def test_goals_are_judged_from_the_data():
    found = measured(
        benchmark(goals={"step_movielens_plain": {"value": 600.0, "range": [550.0, 620.0]}}),
        benchmark(goals={"step_movielens_grouped": {"value": 4.5}}),
    )
    text = render.goals_text({"step": found})
    count = len(goals.GOALS)
    assert text.startswith(f"1 of {count} goals were reached, 1 missed, {count - 2} not measured.")
    assert "| ≥ 500x, stretch 700x | 600x (550 - 620) | reached |" in text
    assert "| ≥ 5x | 4.5x | **missed** |" in text


def test_what_stands_between_is_said_of_missed_goals_alone():
    def text(value):
        found = measured(benchmark(goals={"scaling_movielens": {"value": value}}))
        return render.goals_text({"contention": found})

    goal = goals.GOALS["scaling_movielens"]
    assert goal.why and text(1.5).endswith(f"- {goal.work}: {goal.why}.")
    assert goal.why not in text(1.9)


def test_an_upper_bound_is_reached_from_below():
    goal = goals.Goal("w", "a", 1.3, at_most=True)
    assert goal.met(1.2) and not goal.met(1.4)
    assert not goals.Goal("w", "a", 5).met(4.9)


def test_goal_of_a_share_is_in_percent():
    info = {}
    goals.reach(info, "floor", Comparison(2.0, 1.0, 0.4, 0.6, 0.5))
    assert info["goals"]["floor"] == {"value": 50.0, "range": [40.0, 60.0]}
    assert goals.reached.pop("floor") == info["goals"]["floor"]


def test_growth_is_ordered_by_size_and_leaves_out_what_has_none():
    entries = [benchmark(entities=n, seconds=n / 1e6, peak_mb=n / 1e3) for n in (2000, 1000)]
    found = measured(*entries, benchmark(), benchmark(triples=9, peak_mb=None))
    line = [(1000, pytest.approx(1.0), 1.0), (2000, pytest.approx(2.0), 2.0)]
    assert series.growth(found) == {"entities": {"training step": line}}


def test_plots_are_the_same_bytes_again(tmp_path):
    """The stored plots change where results do, and not because they are drawn anew."""
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    from benchmarks.harness import plots

    found = results.newest(results.FOLDER)
    some = {suite: found[suite] for suite in ("sampler", "scale")}  # a plot of each kind
    first, second = (plots.draw(some, tmp_path / name / "plots") for name in ("first", "second"))
    assert first == second == {name: f"plots/{name}.svg" for name in ("goals", "sampler", "scale")}
    for path in first.values():
        assert (tmp_path / "first" / path).read_bytes() == (tmp_path / "second" / path).read_bytes()


def test_page_without_results_says_how_to_get_some(tmp_path):
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    with pytest.raises(ValueError, match=r"found no result, .* python -m benchmarks\.run"):
        render.write(tmp_path, tmp_path)


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
