"""Training by parts of mini-batches, alone and together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from threading import BrokenBarrierError, Event, Thread

import pytest
import torch

from ekpnet_fast import train as command
from ekpnet_fast.config import ModelConfig, ParallelConfig, RunConfig
from ekpnet_fast.data import make_synthetic
from ekpnet_fast.errors import ConfigError, DataError
from ekpnet_fast.models import MODELS
from ekpnet_fast.models.build import build_model
from ekpnet_fast.runs.evaluate import prepare_run
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.storage import checkpoint, tensor_file
from ekpnet_fast.storage.checkpoint import CheckpointWriter
from ekpnet_fast.training import data as training_data
from ekpnet_fast.training import loop
from ekpnet_fast.training.data import TrainingData
from ekpnet_fast.training.parallel.group import Group
from ekpnet_fast.training.parallel.routes import Router
from ekpnet_fast.training.parallel.saved import SharedWriter
from ekpnet_fast.training.parallel.shards import Sharding
from ekpnet_fast.training.parallel.tables import SharedTables
from ekpnet_fast.training.parallel.world import World
from ekpnet_fast.training.signals import Interrupted
from support import small_training
from support.small_training import SYNTHETIC
from support.thread_worlds import run_together

STAGE = replace(small_training.STAGE, epochs=1, batch_size=128, triples=30)
CONFIG = RunConfig(
    shape=ModelConfig(width=6, hops=2, slots=8, layers=3),
    pretrain=STAGE,
    train=STAGE,
    synthetic=SYNTHETIC,
    ranking=False,
)
QUICK = ("ekpnet", "mf", "cke", "ripplenet")
PARTED = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name, kind in MODELS.items()
    if kind.stages and not kind.uncut
]


@pytest.fixture(autouse=True)
def one_thread(threads):
    threads(1)


def load(parts=4, **changes):
    config = resolve(replace(CONFIG, parallel=ParallelConfig(parts), **changes))
    return prepare_run(config, make_synthetic(config.synthetic))


def assert_same(ours, theirs):
    """The same weights and the same records but for times."""
    a, b = ours.model.state_dict(), theirs.model.state_dict()
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key
    timeless = {"seconds": 0.0, "samples_per_second": 0.0}
    records = [[repr(replace(r, **timeless)) for r in found.records] for found in (ours, theirs)]
    assert records[0] == records[1]


# ---- parts of mini-batches -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "folds"), [("ekpnet", 1), ("ekpnet", 3), ("ripp_mkr", 1), ("wide_deep", 1)]
)
def test_parts_make_up_the_mini_batches(model, folds):
    config, prepared, graph = load(model=model, folds=folds)
    data = TrainingData(config, prepared, graph)
    kind = MODELS[model]
    for stage in kind.stages:
        stream = data.stream(build_model(config, prepared, graph), stage)
        ripple = data.ripple_sets(1)
        whole = list(stream.epoch(1, ripple))
        steps = list(stream.steps(1, ripple, range(4), 4))
        halves = [list(stream.steps(1, ripple, mine, 4)) for mine in (range(2), range(2, 4))]
        assert len(steps) == len(whole)
        for batch, step, first, second in zip(whole, steps, *halves, strict=True):
            assert step.size == batch.size == first.size
            assert sum(part.size for part in step.batches) == batch.size
            assert len(first.batches) + len(second.batches) == len(step.batches) <= 4
            for part, same in zip(step.batches, first.batches + second.batches, strict=True):
                assert torch.equal(part.rows, same.rows) and torch.equal(part.items, same.items)
            assert torch.equal(torch.cat([part.labels for part in step.batches]), batch.labels)
            items = [part.rows[part.items.long()] for part in step.batches]
            assert torch.equal(torch.cat(items), batch.rows[batch.items.long()])
            groups = [part.group_indptr.diff() for part in step.batches]
            assert torch.equal(torch.cat(groups), batch.group_indptr.diff())
            for label in (0, 1):
                triples = [
                    part.rows[part.triple_heads[part.triple_labels == label].long()]
                    for part in step.batches
                ]
                mine = batch.rows[batch.triple_heads[batch.triple_labels == label].long()]
                assert torch.equal(torch.cat(triples), mine)


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
def test_lists_are_cut_by_no_part(loss):
    stages = {name: replace(STAGE, loss=loss) for name in ("pretrain", "train")}
    plain, alone = (loop.train(*load(parts, **stages)) for parts in (1, 4))
    for ours, theirs in zip(alone.records, plain.records, strict=True):
        assert ours.pairs == pytest.approx(theirs.pairs, rel=1e-4)


@pytest.mark.parametrize("model", PARTED)
def test_parts_have_the_loss_of_the_whole_and_no_process_changes_a_bit(model):
    whole, parted = load(1, model=model), load(4, model=model)
    plain, alone = loop.train(*whole), loop.train(*parted)
    for ours, theirs in zip(alone.records, plain.records, strict=True):
        for term in ("pairs", "kg", "l2_weights", "l2_rows"):
            assert getattr(ours, term) == pytest.approx(
                getattr(theirs, term), rel=1e-4, abs=1e-7, nan_ok=True
            )
    for size in (2, 4) if model in QUICK else (2,):
        together = run_together(size, lambda world: loop.train(*parted, world=world))
        assert_same(together[0], alone)
        assert all(len(found.records) == len(alone.records) for found in together)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"folds": 3},
        {"folds": 3, "model": "ripplenet"},
        {"protocol": "recbole", "ranking": True},
        {"protocol": "recbole", "ranking": True, "train": replace(STAGE, loss="softmax")},
        {"backend": "reference"},
        {"train": replace(STAGE, batch_size=16, group_size=16), "threads": 2},
    ],
    ids=[
        "drawn for each batch",
        "shared folds",
        "folds",
        "drawn negatives",
        "lists",
        "reference",
        "fewer groups than parts",
    ],
)
def test_bits_are_those_of_one_process(changes, monkeypatch):
    monkeypatch.setattr(training_data, "DRAWN_AT_ONCE", 0)
    parted = load(4, **changes)
    alone = loop.train(*parted)
    assert_same(run_together(2, lambda world: loop.train(*parted, world=world))[0], alone)


def test_refusals():
    for model, why in (("kcan", "other items of the same mini-batch"), ("item_knn", "not trained")):
        with pytest.raises(ConfigError, match=f"parallel.parts is 4, expected 1: {model} .*{why}"):
            load(4, model=model)
    for parts in (0, 65):
        with pytest.raises(ConfigError, match=f"parallel.parts is {parts}, expected 1 to 64"):
            load(parts)


# ---- shards --------------------------------------------------------------------------------------


class OfFour(World):
    """The first of four processes."""

    size = 4


@pytest.mark.parametrize("count", [0, 1, 3, 7, 64, 1000])
def test_shards_are_even_and_whole_again(count):
    table = torch.randn(count, 3, requires_grad=count == 64)

    def loads(ids):
        """Those of four processes that have a shard each."""
        return Sharding(count, 4, OfFour()).placed(ids, [len(ids)]).counts

    def work(world):
        sharding = Sharding(count, 4, world)
        mine = sharding.mine(table)
        places = sharding.placed(torch.arange(count, dtype=torch.int32), [count])
        of_each = torch.split(torch.arange(count), places.counts.flatten().tolist())[world.rank]
        assert torch.equal(mine[places.rows[of_each]], table[places.order[of_each]])
        ends = [*sharding.starts.tolist(), len(mine)]
        for shard, (begin, end) in zip(sharding.held, pairwise(ends), strict=True):
            assert torch.equal(mine[begin:end], table[sharding.ids_of(shard)])
        return sharding.whole(mine), loads(torch.arange(count, dtype=torch.int32))

    for size in (1, 2, 4):
        found = run_together(size, work)
        assert all(torch.equal(whole, table) for whole, _ in found)
        even = found[0][1]
        assert int(even.max() - even.min()) <= 1
    # Popular rows are often the first ones, or multiples of something.
    for ids in (torch.arange(0, count, 4), torch.arange(count // 4)):
        assert count < 64 or int(loads(ids.int()).max()) <= 1.25 * len(ids) / 4


def test_bytes_are_those_of_the_formula():
    """4 for an id, and the row and its gradient, of every row that another process has.

    Then what each part asks for, and reports, to every other process.
    """
    draw = torch.Generator().manual_seed(0)
    wanted = [torch.randperm(50, generator=draw)[:n].int() for n in (20, 30, 0, 7)]
    table = torch.randn(50, 2, 3)
    times = torch.cat(wanted).bincount(minlength=50).view(50, 1, 1)

    def work(world):
        sharding = Sharding(50, 4, world)
        parts = [wanted[k] for k in sharding.held]
        router = Router({"entity": sharding}, {"entity": "entity"}, world)
        routes = router.routes(router.ask({"entity": parts}))
        following = router.ask({"entity": parts[::-1]})
        mine = sharding.mine(table)
        for _ in range(2):  # the second time the routes were told in the step before
            leaves, counts = router.fetch(routes, {"entity": mine}, following)
            asked = routes["entity"].asked
            rows = [leaves["entity"][places.long()] for places in asked.places]
            for ids, found in zip(parts, rows, strict=True):
                assert torch.equal(found, table[ids.long()])
            report, told = torch.full((2, 5), float(world.rank)), routes["entity"].touched
            sums, reports, routes = router.give_back(
                routes, {"entity": rows}, report, following, counts
            )
            expected = sharding.mine(table * times)[told.long()]
            assert torch.allclose(sums["entity"], expected)
            assert reports[:, 0].tolist() == [0, 0, 1, 1]
            parts = parts[::-1]
            following = {}
        of_each = sharding.placed(torch.cat(parts), [*map(len, parts)]).counts.sum(1)
        return world.sent, int(of_each.sum() - of_each[world.rank])

    found = run_together(2, work)
    remote = sum(rows for _, rows in found)
    others = 2 * 2 * (4 + 5 * 4)  # of two processes with two parts each
    assert sum(sent for sent, _ in found) == 2 * remote * (4 + 2 * table[0].nbytes) + 2 * others


# ---- checkpoints ---------------------------------------------------------------------------------


def train_until_stopped(folder, data, size, polls, start=None):
    """Outcome of a run that goes on from a checkpoint, its last; None where it was stopped."""
    start = start or checkpoint.latest(folder, pytest.fail)

    def work(world):
        left = iter(range(polls))
        mine = start if world.rank == 0 or start is None else checkpoint.read(folder, start.number)
        with CheckpointWriter(
            folder,
            {},
            start=mine,
            stopped=lambda: signal.SIGTERM if next(left, polls) == polls - 1 else None,
            first=world.rank == 0,
        ) as writer:
            try:
                return loop.train(*data, writer=writer, world=world)
            except Interrupted:
                return None

    return run_together(size, work)[0]


def test_a_stopped_run_goes_on_with_another_number_of_processes(tmp_path):
    two = replace(STAGE, epochs=2)
    data = load(6, pretrain=two, train=two)
    undisturbed = loop.train(*data)
    saved = []
    for size in (2, 1, 3, 6):
        assert train_until_stopped(tmp_path, data, size, 7) is None
        start = checkpoint.latest(tmp_path, pytest.fail)
        assert len(list(tmp_path.glob(f"{start.path.stem}-shard-*"))) == 6
        saved.append(start.number)
    assert saved == sorted(set(saved))
    assert_same(train_until_stopped(tmp_path, data, 2, 1000), undisturbed)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_rows_are_the_same_for_any_number_of_processes(tmp_path, size):
    data = load(6)
    assert train_until_stopped(tmp_path, data, 2, 3) is None
    model = build_model(*data)
    table = model.table("entity")
    whole = run_together(
        size, lambda world: rows_of(checkpoint.latest(tmp_path, pytest.fail), data, table, world)
    )
    start = checkpoint.latest(tmp_path, pytest.fail)
    sharding = Sharding(len(table), 6, World())
    for name, found in whole[0].items():
        assert not torch.equal(found, table)
        for shard in range(6):
            rows = start.shard(shard)[name]
            assert torch.equal(found[sharding.ids_of(shard)], rows)
        assert all(torch.equal(of_rank[name], found) for of_rank in whole)


def rows_of(start, data, table, world):
    """Whole tables that a checkpoint has, of the rows that the processes go on with."""
    tables = SharedTables(build_model(*data), world, 6)
    tensors = SharedWriter(FromStart(start), tables).start.tensors
    names = ("model.entity", "optimizer.m.entity", "optimizer.v.entity")
    return {name: tables.shardings["entity"].whole(tensors[name]) for name in names}


class FromStart:
    """What `SharedWriter` takes of a writer that only goes on."""

    stopped = due = finish = None

    def __init__(self, start):
        self.start = start


@pytest.mark.parametrize("damage", ["shard", "json", "half of the shards"])
def test_a_checkpoint_that_was_not_finished_is_passed_over(tmp_path, damage):
    data = load(4, train=replace(STAGE, epochs=3))
    assert train_until_stopped(tmp_path, data, 2, 3) is None
    before = checkpoint.latest(tmp_path, pytest.fail).number
    assert train_until_stopped(tmp_path, data, 2, 3) is None
    number = checkpoint.latest(tmp_path, pytest.fail).number
    assert number == before + 1
    if damage == "json":  # the process ended before it was written
        (tmp_path / f"checkpoint-{number}.json").unlink()
    for shard in {"shard": [1], "json": [], "half of the shards": [2, 3]}[damage]:
        path = tmp_path / f"checkpoint-{number}-shard-{shard}.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
    warned = []
    assert checkpoint.latest(tmp_path, warned.append).number == before
    assert len(warned) == (damage != "json")
    undisturbed = loop.train(*data)
    start = checkpoint.latest(tmp_path, warned.append)
    assert_same(train_until_stopped(tmp_path, data, 4, 1000, start), undisturbed)


def test_what_is_written_is_what_was_saved(tmp_path, monkeypatch):
    """Training goes on while shards are written."""
    write, release = tensor_file.write, Event()

    def late(*arguments):
        assert release.wait(60)
        write(*arguments)

    monkeypatch.setattr(tensor_file, "write", late)
    data = load(4)

    def work(world):
        tables = SharedTables(build_model(*data), world, 4)
        with CheckpointWriter(tmp_path, {}, first=world.rank == 0) as writer:
            shared = SharedWriter(writer, tables)
            rows = tables.shardings["entity"].mine(torch.randn(len(whole), 3, generator=draw(5)))
            facts = {"seconds": {}, "position": {}, "epochs": []}
            shared.save(facts, {"model.entity": rows, "other": other[world.rank]})
            rows.zero_()
            other[world.rank].zero_()
            assert not list(tmp_path.glob("checkpoint-*"))
            world.meet()
            release.set()

    whole, other = build_model(*data).table("entity"), [torch.ones(3), torch.ones(3)]
    run_together(2, work)
    start = checkpoint.latest(tmp_path, pytest.fail)
    assert start.tensors["other"].tolist() == [1, 1, 1]
    saved = torch.randn(len(whole), 3, generator=draw(5))
    for shard in range(4):
        ids = Sharding(len(whole), 4, World()).ids_of(shard)
        assert torch.equal(start.shard(shard)["model.entity"], saved[ids])


def test_a_shard_that_cannot_be_written_ends_all(tmp_path, monkeypatch):
    write = tensor_file.write

    def full(path, *arguments):
        if "shard-3" in path.name:
            raise OSError(28, "No space left on device")
        write(path, *arguments)

    monkeypatch.setattr(tensor_file, "write", full)
    data, ends = load(4), []

    def work(world):
        with CheckpointWriter(tmp_path, {}, first=world.rank == 0) as writer:
            try:
                loop.train(*data, writer=writer, world=world)
            except BaseException as error:
                ends.append((world.rank, type(error)))
                raise

    began = time.monotonic()
    with pytest.raises((ConfigError, BrokenBarrierError)):
        run_together(2, work)
    assert time.monotonic() - began < 50  # less than anybody waits for another one
    assert dict(ends) == {0: BrokenBarrierError, 1: ConfigError}


def draw(seed):
    return torch.Generator().manual_seed(seed)


def test_a_damaged_or_missing_shard_is_told(tmp_path):
    data = load(4)
    assert train_until_stopped(tmp_path, data, 2, 3) is None
    number = checkpoint.latest(tmp_path, pytest.fail).number
    path = tmp_path / f"checkpoint-{number}-shard-3.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"shard-3.safetensors: damaged"):
        checkpoint.read(tmp_path, number).shard(3)
    with pytest.raises(DataError, match=r"no checkpoint is whole.*shard-3.safetensors: damaged"):
        checkpoint.latest(tmp_path, pytest.fail)
    path.unlink()
    with pytest.raises(DataError, match=r"shard-3.safetensors: no such file"):
        checkpoint.latest(tmp_path, pytest.fail)
    checkpoint.remove_all(tmp_path)
    assert not list(tmp_path.iterdir())


# ---- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "variables", "message"),
    [
        ([], {"WORLD_SIZE": ""}, "RANK, WORLD_SIZE: found '0' and 'nothing'"),
        ([], {}, "--parallel.parts is 1, expected a multiple of 2, the number of processes"),
        (["--parallel.parts", "2"], {}, "MASTER_ADDR is not set, but WORLD_SIZE is 2"),
        (["--tune", "3", "--output", "x"], {}, "--tune: found 2 processes (WORLD_SIZE)"),
        (
            ["--parallel.parts", "2"],
            {"MASTER_ADDR": "localhost", "MASTER_PORT": "1", "EKPNET_WAIT": "soon"},
            "EKPNET_WAIT is 'soon', expected seconds above 0",
        ),
    ],
)
def test_errors_before_the_processes_meet_are_told_by_the_first(
    words, variables, message, monkeypatch, capsys
):
    for rank in ("0", "1"):
        for name, value in {"RANK": rank, "WORLD_SIZE": "2", **variables}.items():
            monkeypatch.setenv(name, value)
        said = ""
        try:
            code = command.main(words)
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr().err
        assert code == 2
        if rank == "0":
            assert message in said and said.count("\n") == 1
        elif "WORLD_SIZE" not in variables:
            assert said == ""


def test_a_process_that_can_start_no_thread_tells(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    alone = Group(0, 1, 20.0)
    with monkeypatch.context() as patch:
        patch.setattr(Thread, "start", refuse)
        assert alone.first_to_tell()
    assert alone.first_to_tell() and not alone.first_to_tell()
    alone.leave()


def test_processes_that_never_meet_the_first_one_end_with_one_line():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(nobody.getsockname()[1])}
        variables = {"RANK": "1", "WORLD_SIZE": "2", "EKPNET_WAIT": "1", **meeting}
        words = [sys.executable, "-m", "ekpnet_fast.train", "--parallel.parts", "2"]
        done = subprocess.run(
            words, env={**os.environ, **variables}, capture_output=True, text=True, check=False
        )
    said = (
        "error: process 1 of 2: another process has not answered for 1 s (EKPNET_WAIT); start all"
    )
    assert done.returncode == 2 and done.stderr.startswith(said), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
