"""Cross-fitting by one ripple set per user: batches of users, whose pairs see it by fold."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from ekpnet_fast import ops
from ekpnet_fast.config import ModelConfig, RunConfig
from ekpnet_fast.models import MODELS, build
from ekpnet_fast.ops import reference
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.sampling.batches import BatchStream
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.histories import fold_of
from ekpnet_fast.sampling.pairs import BatchFields
from ekpnet_fast.sampling.ripple_sets import FoldRippleSets, LazyRippleSets
from ekpnet_fast.training import loop
from ekpnet_fast.training.data import TrainingData
from ekpnet_fast.training.step import StageTrainer
from support.small_folds import COUNT, SMALL, STAGE

CONFIG = RunConfig(
    folds=COUNT,
    shape=ModelConfig(width=4, hops=3, slots=6, layers=2),
    pretrain=STAGE,
    train=STAGE,
    synthetic=SMALL,
)


@pytest.fixture(scope="module")
def graph(prepared):
    return Graph.from_dataset(prepared.dataset, inverse=True)


@pytest.fixture(scope="module")
def shared(graph, folds):
    return FoldRippleSets.sample(
        graph, folds.clicks, folds.click_folds, COUNT, hops=3, slots=6, seed=3
    )


def stream_of(graph, folds, *, batch_size=32, group_size=8, reads=None):
    return BatchStream(
        graph, folds.rows, batch_size=batch_size, group_size=group_size, triples=4, seed=1,
        folds=folds, shared=True, reads=reads,
    )  # fmt: skip


def test_clicks_and_their_folds(prepared, folds):
    indptr = torch.from_numpy(prepared.history_indptr)
    assert torch.equal(folds.clicks.indptr, indptr)
    assert torch.equal(folds.clicks.items, torch.from_numpy(prepared.history_items))
    users = torch.repeat_interleave(indptr.diff()).numpy()
    expected = fold_of(users, prepared.history_items, COUNT, 5)
    assert folds.click_folds.tolist() == expected.tolist()


def test_a_fold_sees_no_click_of_its_own_at_the_first_hop(folds, shared):
    seen = 0
    for user, (begin, end) in enumerate(pairwise(folds.clicks.indptr.tolist())):
        fold_of_click = dict(
            zip(
                folds.clicks.items[begin:end].tolist(),
                folds.click_folds[begin:end].tolist(),
                strict=True,
            )
        )
        for m in range(int(shared.sets.counts[user, 0])):
            own = fold_of_click[int(shared.sets.heads[user, 0, m])]
            assert int(shared.slot_folds[user, 0, m]) == (1 << COUNT) - 1 - (1 << own)
            seen += 1
    assert seen > 100


@pytest.mark.parametrize(("batch_size", "group_size"), [(1, 1), (7, 3), (32, 8), (1000, 64)])
def test_every_pair_once_with_what_its_fold_sees(graph, folds, shared, batch_size, group_size):
    stream = stream_of(graph, folds, batch_size=batch_size, group_size=group_size)
    order, owner_of_row = stream.order(2), folds.row_owners
    assert torch.equal(order.rows.sort().values, torch.arange(len(folds.kept)))
    owners = owner_of_row[order.rows]
    assert torch.equal(
        torch.repeat_interleave(order.group_users, order.group_indptr.diff()), owners
    )
    assert torch.equal(order.items, folds.rows.items[order.rows])
    # No more groups than the users' pairs fill.
    sizes = folds.rows.indptr[::COUNT].diff()
    groups = sum(-(-n // min(group_size, batch_size)) for n in sizes.tolist())
    assert len(order.shared.users) == groups
    begin = 0
    for batch in stream.epoch(2, shared):
        B = batch.num_pairs
        assert 1 <= B <= batch_size
        assert torch.equal(batch.rows[batch.items.long()], order.items[begin : begin + B])
        assert torch.equal(batch.pair_folds, owners[begin : begin + B] % COUNT)
        users = owners[begin : begin + B] // COUNT
        apart = batch.by_fold()
        assert apart.slot_folds is None and apart.pair_folds is None
        of_pair = apart.groups
        expected = shared.of(users, batch.pair_folds)
        valid = torch.arange(6) < expected.counts[..., None]
        assert torch.equal(apart.counts[of_pair], expected.counts)
        assert torch.equal(apart.relations[of_pair], expected.relations)
        for local, whole in ((apart.heads, expected.heads), (apart.tails, expected.tails)):
            assert torch.equal(batch.rows[local[of_pair].long()][valid], whole[valid])
        # Without a slot that nobody sees.
        present = torch.zeros(len(batch.counts), dtype=torch.int64)
        for group, fold in zip(batch.groups.tolist(), batch.pair_folds.tolist(), strict=True):
            present[group] |= 1 << fold
        kept = torch.arange(6) < batch.counts[..., None]
        assert ((batch.slot_folds & present[:, None, None] != 0) == kept).all()
        begin += B
    assert begin == len(folds.kept)


def test_requests_are_by_user_and_fold(graph, folds, shared):
    requests = []

    def inputs(request):
        requests.append(request)
        return {"rows": request.rows}

    stream = stream_of(graph, folds, reads=BatchFields(inputs=inputs))
    batches = list(stream.epoch(1, shared))
    for batch, request in zip(batches, requests, strict=True):
        assert request.folds == COUNT and request.histories is folds.histories
        assert torch.equal(request.ids // COUNT, request.users)
        ids = torch.repeat_interleave(request.ids, request.group_indptr.diff())
        assert torch.equal(folds.row_owners[request.rows], ids)
        assert torch.equal(ids % COUNT, batch.pair_folds)
        assert torch.equal(batch.inputs["rows"], request.rows)
        # Once per user's group, not once per pair.
        of_group = zip(batch.groups.tolist(), ids.tolist(), strict=True)
        assert len(request.ids) == len(set(of_group))


def test_a_batch_by_fold_is_itself_where_nothing_is_shared(graph, folds):
    drawn = LazyRippleSets(graph, folds.histories, 3, 6, seed=0, epoch=0, repeat=False)
    stream = BatchStream(
        graph, folds.rows, batch_size=32, group_size=8, triples=4, seed=1, folds=folds
    )
    batch = next(stream.epoch(1, drawn))
    assert batch.by_fold() is batch


@pytest.mark.parametrize("model", ["ekpnet", "ekpnet_plus"])
def test_sets_are_shared_where_slots_are_masked(model, prepared, graph):
    config = resolve(replace(CONFIG, model=model))
    data = TrainingData(config, prepared, graph)
    assert isinstance(data.ripple_sets(1), FoldRippleSets)
    repeated = replace(config, sampling=replace(config.sampling, padding="repeat"))
    assert isinstance(TrainingData(repeated, prepared, graph).ripple_sets(1), LazyRippleSets)
    other = resolve(replace(CONFIG, model="ripplenet"))
    assert isinstance(TrainingData(other, prepared, graph).ripple_sets(1), LazyRippleSets)


@pytest.mark.parametrize("model", [name for name, kind in MODELS.items() if kind.shared_sets])
def test_models_that_share_sets_have_inputs_by_pair(model):
    kind = MODELS[model]
    assert set(kind.tables.values()) == {"entity"} and not kind.input_spaces


@pytest.mark.parametrize("stage", ["pretrain", "train"])
def test_native_and_reference_losses_agree(stage, prepared, graph):
    config = resolve(replace(CONFIG, model="ekpnet"))
    losses = []
    for backend in (ops, reference):
        data = TrainingData(config, prepared, graph)
        model = build.build_model(config, prepared, graph)
        trainer = StageTrainer(model, getattr(config, stage), backend, stage)
        stream = data.stream(model, stage)
        losses.append(
            [
                trainer.step(batch)
                for epoch in (1, 2)
                for batch in stream.epoch(epoch, data.ripple_sets(epoch))
            ]
        )
    assert len(losses[0]) > 10
    for native, plain in zip(*losses, strict=True):
        assert native == pytest.approx(plain, rel=1e-4, abs=1e-7)


def test_threads_do_not_change_a_bit(prepared, graph, threads):
    states = []
    for count in (1, 2, 8):
        threads(count)
        config = resolve(replace(CONFIG, model="ekpnet", threads=count))
        states.append(loop.train(config, prepared, graph).model.state_dict())
    for other in states[1:]:
        assert all(torch.equal(states[0][name], other[name]) for name in states[0])
