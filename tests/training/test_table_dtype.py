"""Training with bfloat16 tables: every kind of step, saved recommenders, refusals."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
import torch

from ekpnet_fast import Recommender, ops
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.models import MODELS
from ekpnet_fast.ops import reference
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.training import fixed_shapes
from support.contracts import assert_same_bits
from support.pretended_gpu import pretended_gpu
from support.small_training import CONFIG, SYNTHETIC, start, start_resident, train, train_resident

SMALL = replace(CONFIG, shape=replace(CONFIG.shape, table_dtype="bfloat16"))


@pytest.fixture(autouse=True)
def one_thread(threads):
    threads(1)


@pytest.mark.parametrize(
    "model", ["ekpnet", "ekpnet_plus", "mf", pytest.param("kgcn", marks=pytest.mark.slow)]
)
def test_learns_as_with_float32(model):
    plain, small = (train(resolve(replace(c, model=model))) for c in (CONFIG, SMALL))
    kinds = {x.dtype for name, x in small.model.state_dict().items() if name in small.model.tables}
    assert kinds == {torch.bfloat16}
    for ours, theirs in zip(small.records, plain.records, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=0.02, nan_ok=True)
        assert ours.valid == pytest.approx(theirs.valid, abs=0.05, nan_ok=True)


def test_moments_are_float32_and_steps_have_their_own_draws():
    config = replace(SMALL, seed=5)
    seeds = []
    for deep in (False, True):
        trainer, stream, ripple = start(config, deep)
        assert trainer.state.m["entity"].dtype == trainer.state.v["entity"].dtype == torch.float32
        trainer.step(next(stream.epoch(1, ripple)))
        seeds.append(trainer.state._seed)
    assert len(set(seeds)) == 2


def test_native_and_reference_steps_agree():
    tables = []
    for backend in (ops, reference):
        trainer, stream, ripple = start(SMALL, True, backend)
        for batch, _ in zip(stream.epoch(1, ripple), range(3), strict=False):
            trainer.step(batch)
        tables.append(trainer.model.table("entity").float())
    # Different float32 bits round to different neighbours here and there, and Adam's first steps
    # are of the sign alone.
    torch.testing.assert_close(*tables, rtol=0.02, atol=0.05)
    assert (tables[0] != tables[1]).float().mean() < 0.05


def test_captured_step_equals_the_step_bit_for_bit():
    states = []
    for capture in (False, True):
        with pretended_gpu():
            trainer, ripple = start_resident(SMALL, True, device="cuda", capture=capture)
            losses = train_resident(trainer, ripple, 2)
            tensors = [*trainer.model.state_dict().values(), *trainer.state.tensors().values()]
            states.append((losses, [x.cpu() for x in tensors]))
    assert states[0][0] == states[1][0]
    assert_same_bits(states[0][1], states[1][1])


def test_kernels_take_the_steps_of_the_cpu(emulated, monkeypatch):
    monkeypatch.setattr(fixed_shapes, "GROUP_STEP", 4)  # padding takes the emulation long
    stage = replace(SMALL.train, batch_size=16, triples=8)
    tiny = replace(SYNTHETIC, users=20, items=40, positives=6, triples=240)
    config = replace(SMALL, train=stage, synthetic=tiny)
    results = []
    for place in (contextlib.nullcontext(), emulated.in_place_of_the_cpu()):
        trainer, ripple = start_resident(config, True)
        with place:
            losses = train_resident(trainer, ripple, 1)
        results.append((losses[0], trainer.model.table("entity").float()))
    (found, table), (expected, other) = results
    assert found == pytest.approx(expected, rel=5e-3)
    # Where the last bit of float32 decides, the neighbouring number.
    assert (table != other).float().mean() < 0.05


def test_recommender_is_kept_as_it_is(tmp_path):
    sizes = vars(CONFIG.synthetic)
    options = {f"synthetic.{name}": sizes[name] for name in ("users", "items", "positives")}
    options |= {f"synthetic.{name}": sizes[name] for name in ("attributes", "parents", "triples")}
    options["shape.table_dtype"] = "bfloat16"
    made = Recommender.fit("synthetic", model="ekpnet", epochs=1, options=options)
    best = made.recommend(history=[1, 5, 9], k=5)
    made.save(tmp_path / "saved")
    again = Recommender.load(tmp_path / "saved")
    assert again.recommend(history=[1, 5, 9], k=5) == best
    assert again.similar_items(1, k=3) == made.similar_items(1, k=3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "popularity"}, "expected float32: popularity has no tables"),
        ({"parallel.parts": 2}, "expected float32: processes share tables of --parallel.parts"),
        ({"shape.table_dtype": "float16"}, "float16"),
    ],
)
def test_refusals(options, said):
    with pytest.raises(ConfigError, match=said):
        resolve({"shape.table_dtype": "bfloat16", **options})


def test_default_is_float32():
    assert {resolve({"model": name}).shape.table_dtype for name in MODELS} == {"float32"}
