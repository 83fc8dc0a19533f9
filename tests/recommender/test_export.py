"""The scoring model outside of eager torch: torch.export, and ONNX in another runtime."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
import torch

from ekpnet_fast import export, ops
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.ops import reference
from ekpnet_fast.recommender import Recommender
from ekpnet_fast.recommender.exporting import INPUTS, ScoringGraph
from ekpnet_fast.sampling.pairs import Pairs
from support.cinema import FILMS, fitted

FAMILY = ["ekpnet", "ekp_att", "ekp_frame", "ekp_no"]
HISTORY = ["alien", "casablanca"]


class Batch(torch.nn.Module):
    """Logits of a batch of user groups."""

    def __init__(self, state, backend):
        super().__init__()
        self.model, self.stage, self.backend = state.model, state.stage, backend

    def forward(self, heads, relations, tails, counts, group_indptr, items):
        pairs = Pairs(
            heads=heads, relations=relations, tails=tails, counts=counts,
            group_indptr=group_indptr, items=items,
        )  # fmt: skip
        tables = {"entity": self.model.entity}
        return self.model.logits(self.backend, tables, pairs, stage=self.stage)


@pytest.mark.parametrize("backend", [ops, reference], ids=["ops", "reference"])
@pytest.mark.parametrize("model", FAMILY)
def test_torch_export_of_a_batch(model, backend):
    """Through the custom ops with their fakes, and through the specification."""
    state = fitted(model, epochs=1)._state
    state.model.requires_grad_(False)
    query = state.of_histories([np.array([0, 2]), np.array([3]), np.array([1, 4, 5])])
    sets = state.ripple_sets(query)
    batch = (
        *vars(sets).values(),
        torch.tensor([0, 4, 5, 9]),
        torch.tensor([0, 1, 2, 3, 5, 4, 3, 2, 1], dtype=torch.int32),
    )
    eager = Batch(state, backend)
    exported = torch.export.export(eager, batch)
    found = exported.module()(*batch)
    torch.testing.assert_close(found, Batch(state, ops)(*batch), rtol=1e-4, atol=1e-5)
    kept = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert any(name.startswith("ekpnet.") for name in kept) == (backend is ops)
    # The exported program is of its shape alone, and takes other numbers.
    other = (*batch[:5], batch[5].flip(0))
    torch.testing.assert_close(
        exported.module()(*other), Batch(state, ops)(*other), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("model", FAMILY)
def test_onnx_gives_the_native_logits(model, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="ONNX needs the extra `export`")
    pytest.importorskip("onnxscript", reason="ONNX needs the extra `export`")
    recommender = fitted(model, epochs=1)
    recommender.graph.add_items({"gladiator": [("directed by", "m/ridley")]})
    path = tmp_path / "model.onnx"
    assert recommender.export(path) < 1e-4
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == list(INPUTS)
    for subject in ({"user": "ann"}, {"history": HISTORY}, {"history": ["fargo"]}):
        inputs = recommender.scoring_inputs(**subject)
        (logits,) = session.run(None, inputs)
        best = recommender.recommend(**subject, k=9, exclude_seen=False)
        expected = {item.item: item.score for item in best}
        probabilities = 1 / (1 + np.exp(-logits))
        for item, found in zip(recommender.item_ids(), probabilities, strict=True):
            assert found == pytest.approx(expected[item], abs=1e-4)
        (some,) = session.run(None, {**inputs, "items": inputs["items"][2:4]})
        assert some == pytest.approx(logits[2:4], abs=1e-5)


def test_the_graph_of_one_user():
    recommender = fitted(epochs=1)
    state = recommender._state
    state.model.requires_grad_(False)
    inputs = recommender.scoring_inputs("ann")
    assert inputs["items"].tolist() == list(range(len(FILMS)))
    given = [torch.from_numpy(inputs[name]) for name in INPUTS]
    found = [ScoringGraph(state, backend)(*given) for backend in (ops, reference)]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_command(tmp_path, capsys, recwarn):
    pytest.importorskip("onnxruntime", reason="ONNX needs the extra `export`")
    pytest.importorskip("onnxscript", reason="ONNX needs the extra `export`")
    fitted(epochs=1).save(tmp_path / "r")
    assert export.main([str(tmp_path / "r"), str(tmp_path / "m.onnx")]) == 0
    out = capsys.readouterr().out
    assert f"Written to {tmp_path / 'm.onnx'}: " in out and "same logits up to" in out
    assert not [w for w in recwarn if w.category is FutureWarning]  # those of torch's own calls
    assert export.main([str(tmp_path / "r"), str(tmp_path / "no" / "m.onnx")]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["mf", "ripplenet", "akupm"])
def test_other_models_are_refused(model, tmp_path):
    recommender = Recommender(fitted(model, epochs=1)._state)
    with pytest.raises(ConfigError, match=f"model {model} cannot be written, expected one of"):
        recommender.export(tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match=f"model {model} cannot be written"):
        recommender.scoring_inputs("ann")


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    imported = builtins.__import__

    def without(name, *rest):
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"export needs onnx, .* pip install"):
        fitted(epochs=1).export(tmp_path / "m.onnx")
