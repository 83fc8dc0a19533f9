"""Training, ranking and recommending on a pretended GPU: what would stop or wait on a real one."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from signal import SIGTERM
from typing import ClassVar

import pytest
import torch

from benchmarks.gpu import __main__ as gpu_benchmark
from benchmarks.gpu import timing
from ekpnet_fast import Recommender, ops
from ekpnet_fast.errors import TrainingError
from ekpnet_fast.evaluation import ranking, scoring
from ekpnet_fast.models import MODELS, build
from ekpnet_fast.native import device
from ekpnet_fast.ops import deterministic
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.storage import checkpoint
from ekpnet_fast.storage.checkpoint import CheckpointWriter
from ekpnet_fast.training import epochs, loop, losses, step
from ekpnet_fast.training.signals import Interrupted
from support.contracts import assert_same_bits
from support.pretended_gpu import GpuTensor, Graph, RefusedError, pretended_gpu
from support.small_training import CONFIG, HARD, LISTS, PLUS, load, start_resident, train_resident

# Per model, folds and stage. Of a step that is not captured they include those of its batch; of one
# that is, nodes are its launches with all kernels of our ops.
COUNTS = Path(__file__).with_name("gpu_counts.json")
QUICK = {"ekpnet", "ekpnet_plus", "mf"}  # in every run of the tests; the others are slow
TRAINED = [name for name, kind in MODELS.items() if kind.stages]


@pytest.fixture(autouse=True)
def one_thread(threads):
    threads(1)


def cases():
    """Models with the numbers of folds that they can have; of the slow ones the largest."""
    found = []
    for name in TRAINED:
        folded = MODELS[name].ripple or MODELS[name].history
        numbers = (1, 3) if folded and name in QUICK else (3 if folded else 1,)
        marks = [] if name in QUICK else [pytest.mark.slow]
        found += [pytest.param(name, folds, marks=marks) for folds in numbers]
    return found


def config_of(model, **changes):
    return resolve(replace(CONFIG, model=model, **changes))


# ---- what it refuses -----------------------------------------------------------------------------


def test_refuses_what_a_gpu_refuses():
    with pretended_gpu() as gpu:
        x = torch.zeros(3, device="cuda")
        assert x.device == torch.device("cuda", 0) and x.tolist() == [0, 0, 0]
        for mixed in (
            lambda: x + torch.ones(3),
            lambda: torch.stack([x, torch.ones(3)]),
            lambda: torch.ones(3).index_select(0, torch.zeros(1, dtype=torch.int64, device="cuda")),
        ):
            with pytest.raises(RefusedError, match="tensors of two devices"):
                mixed()
        assert (x + torch.tensor(2.0)).tolist() == [2, 2, 2]  # a number is no tensor
        with pytest.raises(TypeError, match="to numpy"):
            x.numpy()
        with pytest.raises(RefusedError, match="no CUDA kernel: sample_neighbors"):
            gpu.run(torch.ops.ekpnet.sample_neighbors.default, (x,), {})


@pytest.mark.parametrize(
    ("work", "why"),
    [
        (lambda x: x.sum().item(), "a wait"),
        (lambda x: x.cpu(), "a wait"),
        (lambda x: x.nonzero(), "a wait"),
        (lambda x: x[x > 0], "a wait"),
        (lambda x: x.long().bincount(minlength=3), "a wait"),
        (lambda x: torch.repeat_interleave(x.long()), "a wait"),
        (lambda x: x.masked_scatter(x > 0, x.clone().requires_grad_()).sum().backward(), "a wait"),
        (lambda x: x.add_(torch.tensor([1.0], device="cuda")), "a copy"),
        (lambda x: x.copy_(torch.ones(3)), "a copy"),
        (lambda x: x.normal_(), "a draw"),
    ],
)
def test_refuses_in_a_capture(work, why):
    with pretended_gpu() as gpu:
        x = torch.zeros(3, device="cuda")
        with pytest.raises(RefusedError, match=f"{why} in a captured step"), gpu.capture(Graph()):
            work(x)
        work(x)


def test_capture_has_no_effect_and_its_replay_has():
    with pretended_gpu() as gpu:
        x, y = torch.zeros(2, device="cuda"), torch.ones(2, device="cuda")
        graph = Graph()
        with gpu.capture(graph):
            x[1:].add_(y[1:] * 2)
        assert x.tolist() == [0, 0]
        y.fill_(3)
        for expected in ([0, 6], [0, 12]):
            graph.replay()
            assert x.tolist() == expected


# ---- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "folds"), cases())
def test_trains_as_on_the_cpu(model, folds, capfd):
    """With lists of all users after it, of which is said what the host computes."""
    device.say_once.cache_clear()
    config = config_of(model, folds=folds)
    data = load(config)
    expected = loop.train(replace(config, device="cpu"), *data)
    with pretended_gpu():
        found = loop.train(replace(config, device="cuda"), *data)
        sets = build.sample_ripple_sets(config, data[1], data[0]).to(torch.device("cuda"))
        score = scoring.catalogue_scorer(
            ops, found.model, sets, data[0].dataset.num_items, stage=found.stage
        )
        ranking.evaluate_ranking(score, data[0], (5,))
        state = found.model.state_dict()
        assert all(isinstance(x, GpuTensor) for x in state.values())
    said = "the wide part's logit of every pair is computed on the CPU (1 threads)"
    assert (said in capfd.readouterr().err) == MODELS[model].wide
    assert len(found.records) == len(expected.records)
    for ours, theirs in zip(found.records, expected.records, strict=True):
        # NaN before the first epoch of EKPNet+.
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-4, nan_ok=True)
        # NaN for a stage of triples, which is not validated.
        assert ours.valid == pytest.approx(theirs.valid, abs=5e-3, nan_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "folds", "hard_share"), [("bpr", 1, 0.0), ("softmax", 3, 0.0), ("softmax", 3, 0.5)]
)
@pytest.mark.parametrize("model", ["ekpnet", "ekpnet_plus", "mf"])
def test_lists_are_learned_as_on_the_cpu(model, loss, folds, hard_share):
    stages = {name: replace(getattr(CONFIG, name), loss=loss) for name in MODELS[model].stages}
    sampling = replace(CONFIG.sampling, negatives=3, hard_share=hard_share)
    folds = folds if MODELS[model].ripple else 1
    drawn = {"protocol": "recbole", "ranking": True, "sampling": sampling}
    config = config_of(model, folds=folds, **drawn, **stages)
    data = load(config)
    expected = loop.train(replace(config, device="cpu"), *data)
    with pretended_gpu():
        found = loop.train(replace(config, device="cuda"), *data)
    for ours, theirs in zip(found.records, expected.records, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-4, nan_ok=True)


@pytest.mark.parametrize(
    ("config", "deep"),
    [(CONFIG, False), (CONFIG, True), (PLUS, True), (LISTS, True), (HARD, True)],
    ids=["pretrain", "train", "plus", "lists", "hard-negatives"],
)
def test_captured_step_is_legal_and_equals_the_step_bit_for_bit(config, deep):
    states = []
    for capture in (False, True):
        with pretended_gpu() as gpu:
            trainer, ripple = start_resident(config, deep, device="cuda", capture=capture)
            losses = train_resident(trainer, ripple, 2)
            tensors = [*trainer.model.state_dict().values(), *trainer.state.tensors().values()]
            states.append((losses, [x.cpu() for x in tensors]))
            assert len(gpu.graphs) == capture
    assert states[0][0] == states[1][0]
    assert_same_bits(states[0][1], states[1][1])


def test_losses_of_steps_are_read_together(monkeypatch):
    """For which the host waits once; what is told of them is what the CPU tells step by step."""
    monkeypatch.setattr(epochs, "READ_TOGETHER", 4)
    config = config_of("mf")
    data = load(config)
    told = {}
    for place in ("cpu", "cuda"):
        progress = []
        with pretended_gpu() if place == "cuda" else nullcontext():
            loop.train(replace(config, device=place), *data, on_progress=progress.append)
        told[place] = [(at.epoch, at.pairs, at.loss) for at in progress if at.record is None]
    steps = len([epoch for epoch, *_ in told["cpu"] if epoch == 1])
    assert steps > 8 and steps % 4  # some are left at the end
    ends = [*range(4, steps + 1, 4), steps]
    expected = [told["cpu"][epoch * steps + end - 1] for epoch in range(2) for end in ends]
    assert [at[:2] for at in told["cuda"]] == [at[:2] for at in expected]
    for ours, theirs in zip(told["cuda"], expected, strict=True):
        assert ours[2] == pytest.approx(theirs[2], rel=1e-4)


def test_a_stopped_run_goes_on_after_steps_that_were_read(monkeypatch, tmp_path):
    monkeypatch.setattr(epochs, "READ_TOGETHER", 4)
    config = config_of("mf")
    data = load(config)
    with pretended_gpu():
        config = replace(config, device="cuda")
        whole = loop.train(config, *data)
        polls = iter([None, SIGTERM])
        with (
            CheckpointWriter(tmp_path, {}, stopped=lambda: next(polls)) as writer,
            pytest.raises(Interrupted) as stop,
        ):
            loop.train(config, *data, writer=writer)
        assert stop.value.where == "after step 8 of epoch 1 of the train stage"
        with CheckpointWriter(tmp_path, {}, start=checkpoint.latest(tmp_path, print)) as writer:
            rest = loop.train(config, *data, writer=writer)
        states = [[x.cpu() for x in run.model.state_dict().values()] for run in (whole, rest)]
    assert_same_bits(*states)
    assert [at.loss for at in rest.records] == [at.loss for at in whole.records]


def test_error_of_a_step_names_it_although_it_was_read_later(monkeypatch):
    monkeypatch.setattr(epochs, "READ_TOGETHER", 4)
    config = config_of("mf")
    data = load(config)
    take, taken = step.LossGradients.of, []

    def spoiled(self, tables, batch):
        loss, grads = take(self, tables, batch)
        taken.append(loss)
        if len(taken) == 6:
            loss._values.fill_(float("nan"))
        return loss, grads

    monkeypatch.setattr(step.LossGradients, "of", spoiled)
    with pretended_gpu(), pytest.raises(TrainingError, match="is nan in step 6 of the train stage"):
        loop.train(replace(config, device="cuda"), *data)
    assert len(taken) == 8


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
def test_lists_wait_for_nothing(loss, monkeypatch):
    of_lists = {"protocol": "recbole", "ranking": True, "train": replace(CONFIG.train, loss=loss)}
    config = config_of("mf", **of_lists)
    counts = counts_of_steps(config, load(config), {}, monkeypatch)
    assert counts["train"]["waits"] == 0 and counts["train"]["copies"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("model", ["ekpnet", "ekpnet_plus"])
def test_stepped_folds_wait_for_nothing(model, monkeypatch):
    """Folds with repetition have a set per user and fold, and are stepped."""
    sampling = replace(CONFIG.sampling, padding="repeat")
    config = config_of(model, folds=3, sampling=sampling)
    counts = counts_of_steps(config, load(config), {}, monkeypatch)
    assert counts and not any(count["waits"] for count in counts.values())


@pytest.mark.slow
@pytest.mark.parametrize("model", ["ekpnet", "ekpnet_plus", "ripplenet", "akupm"])
def test_recommender(model, tmp_path):
    sizes = vars(CONFIG.synthetic)
    options = {f"synthetic.{name}": sizes[name] for name in ("users", "items", "positives")}
    options |= {f"synthetic.{name}": sizes[name] for name in ("attributes", "parents", "triples")}
    with pretended_gpu():
        made = Recommender.fit("synthetic", model=model, epochs=1, device="cuda", options=options)
        best = made.recommend(history=[1, 5, 9], k=3)
        made.explain(history=[1, 5, 9], item=best[0].item)
        made.save(tmp_path / "saved")
        again = Recommender.load(tmp_path / "saved", device="cuda")
        assert [x.item for x in again.recommend(history=[1, 5, 9], k=3)] == [x.item for x in best]


# ---- launches, waits, copies ---------------------------------------------------------------------


def with_entities(dataset, number):
    """The data set with entities that nothing names."""
    return replace(dataset, num_entities=number, entity_names=None)


def nodes_of(graph, kernels):
    """Nodes of a captured graph; an op of ours has several."""
    names = [func.name().split("::")[1].split(".")[0] for func, *_ in graph.steps]
    views = [func.is_view or "detach" in func.name() for func, *_ in graph.steps]
    return [kernels.get(name, 1) for name, view in zip(names, views, strict=True) if not view]


def counts_of_steps(config, data, kernels, monkeypatch):
    """Most launches, waits, copies and bytes of a step by stage; of a captured one its graph's."""
    found: dict[str, Counter[str]] = {}
    batch_to, take = step.Batch.to, step.StageTrainer.step_unread

    with pretended_gpu() as gpu:

        def moved(batch, device):
            gpu.counts.clear()  # a step begins with its batch
            return batch_to(batch, device)

        def counted(self, batch):
            result = take(self, batch)
            found[self.name] = found.get(self.name, Counter()) | gpu.counts
            return result

        monkeypatch.setattr(step.Batch, "to", moved)
        monkeypatch.setattr(step.StageTrainer, "step_unread", counted)
        loop.train(replace(config, device="cuda"), *data)
        names = list(MODELS[config.model].stages)
        for name, graph in zip(names, gpu.graphs, strict=False):
            nodes = nodes_of(graph, kernels)
            numbers = dict(launches=len(nodes), nodes=sum(nodes), bytes=graph.bytes)
            found[name] = Counter(captured=1, **numbers)
    return found


@pytest.mark.parametrize(("model", "folds"), cases())
def test_counts_of_a_step_are_those_of_the_table(model, folds, monkeypatch):
    """A change that raises one must say so in the table, and so must one that lowers it."""
    table = json.loads(COUNTS.read_text())
    config = config_of(model, folds=folds)
    counts = counts_of_steps(config, load(config), table["kernels"], monkeypatch)
    keys = ("captured", "launches", "waits", "copies")
    found = {
        name: {key: count[key] for key in (*keys, *(["nodes"] if count["captured"] else []))}
        for name, count in counts.items()
    }
    if not torch.__version__.startswith(f"{table['torch']}."):
        pytest.skip(f"the table is torch {table['torch']}'s: others are made of other operators")
    assert found == table[f"{model}, {folds} folds"]


def launches_of_arithmetic(n):
    """Launches of what a CPU does in pieces, forward and backward, of so many numbers."""
    with pretended_gpu() as gpu:
        x = torch.linspace(-1, 1, n).to("cuda").requires_grad_()
        weight, bias = (torch.ones(*size, device="cuda") for size in ((4, 3), (3,)))
        labels = torch.ones(n, device="cuda")
        gpu.counts.clear()
        for y in (
            deterministic.in_pieces(torch.sigmoid, x),
            deterministic.linear(x.view(-1, 4), weight),
            deterministic.linear(x.view(-1, 4), weight, bias),
            losses.cross_entropy_sum(x, labels),
        ):
            deterministic.fixed_order_sum(y).backward()
        return gpu.counts["launches"]


def test_pieces_are_those_of_a_cpu():
    assert launches_of_arithmetic(1_000) == launches_of_arithmetic(100_000)


class Noting(dict):
    """What a batch knows, and what of it was read."""

    read: ClassVar[set[str]] = set()

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        ("mf", set()),
        *(
            pytest.param(model, asked, marks=pytest.mark.slow)
            for model, asked in (
                ("kgcn", set()),
                ("cke", {"relation_touched"}),
                ("ripplenet", {"relation_touched", "valid_slots"}),
                ("kcan", {"relation_touched", "positives"}),
            )
        ),
    ],
)
def test_a_batch_is_sent_with_what_its_model_reads(model, asked, monkeypatch):
    monkeypatch.setattr(Noting, "read", set())
    sent, take = [], step.StageTrainer.step_unread

    def noted(self, batch):
        sent.append(set(batch.known))
        return take(self, replace(batch, known=Noting(batch.known)))

    monkeypatch.setattr(step.StageTrainer, "step_unread", noted)
    config = config_of(model)
    data = load(config)
    with pretended_gpu():
        loop.train(replace(config, device="cuda"), *data)
    assert sent and all(names == asked for names in sent)
    assert Noting.read == asked


@pytest.mark.parametrize(
    ("model", "folds"),
    [
        *(("ekpnet", 1), ("ekpnet_plus", 3), ("mf", 1)),
        *(pytest.param(model, 1, marks=pytest.mark.slow) for model in ("ripplenet", "kgcn", "cke")),
    ],
)
def test_step_does_not_grow_with_the_tables(model, folds, monkeypatch):
    """Nothing in it reads or writes all rows of a table, or counts to the number of its rows."""
    config = config_of(model, folds=folds)
    small, large = (
        counts_of_steps(config, load(config, partial(with_entities, number=n)), {}, monkeypatch)
        for n in (1_000, 50_000)
    )
    assert small.keys() == large.keys()
    for name, count in small.items():
        bound = 0 if count["captured"] else 0.1  # corrupted triples seldom name the same entity
        assert large[name]["bytes"] <= (1 + bound) * count["bytes"]
        assert large[name]["launches"] == count["launches"]


def test_measurements(tmp_path, monkeypatch):
    """All that `benchmarks/gpu.sh` measures runs; ops of the CPU do not take bfloat16."""
    monkeypatch.setattr(timing, "CALLS", 2)
    output = tmp_path / "gpu.json"
    with pretended_gpu():
        gpu_benchmark.main(["--quick", "--output", str(output)])
    found = json.loads(output.read_text())
    assert found["stopped"] is None
    assert set(found["failed"]) == {
        f"ripple_attention, {shape.name}, torch.bfloat16"
        for shape in gpu_benchmark.op_benchmarks.SMALL_SHAPES
    }
    assert found["facts"]["device"] == "cuda:0 (pretended GPU)"
    assert all("memory_above_tables_mb" in record for record in found["ranking"])
