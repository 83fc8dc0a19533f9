"""Training on a device in fixed shapes: the same steps as batch by batch, captured or not."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from ekpnet_fast.config import SamplingConfig
from ekpnet_fast.data import SyntheticConfig
from ekpnet_fast.errors import TrainingError
from ekpnet_fast.ops import reference
from ekpnet_fast.training import cuda_graph, epochs, fixed_shapes
from ekpnet_fast.training.fixed_shapes import HostEpoch, localize_batches, localize_padded
from support.contracts import assert_same_bits
from support.places import ROOT, SUPPORT
from support.programs import PATIENCE
from support.small_training import (
    CONFIG,
    HARD,
    LISTS,
    PLUS,
    SYNTHETIC,
    start,
    start_resident,
    train,
    train_resident,
)


@pytest.fixture(autouse=True)
def one_thread(threads):
    threads(1)


ON_GPU = pytest.param("cuda", marks=pytest.mark.cuda)
devices = pytest.mark.parametrize("device", ["cpu", ON_GPU])
stages = pytest.mark.parametrize("deep", [False, True], ids=["pretrain", "train"])


def train_stepped(config, deep, epochs):
    """The same batch by batch, and the trainer."""
    trainer, stream, ripple = start(config, deep)
    found = []
    for number in range(1, epochs + 1):
        sums = dict.fromkeys(("pairs", "kg", "l2_weights", "l2_rows"), 0.0)
        for batch in stream.epoch(number, ripple):
            for term, value in trainer.step(batch).items():
                sums[term] += value * batch.num_pairs
        found.append(sums)
    return found, trainer


def assert_same_training(trainer, stepped):
    assert trainer.state.steps == stepped.state.steps
    for name, x in stepped.model.state_dict().items():
        torch.testing.assert_close(
            trainer.model.state_dict()[name].cpu(), x, rtol=1e-3, atol=1e-4, msg=name
        )


@stages
@pytest.mark.parametrize(
    ("device", "capture"), [("cpu", False), pytest.param("cuda", True, marks=pytest.mark.cuda)]
)
def test_goes_on_from_a_state(deep, device, capture):
    """An epoch, then another in a new trainer: as both in one."""
    whole, ripple = start_resident(CONFIG, deep, device=device, capture=capture)
    expected = train_resident(whole, ripple, 2)
    first, _ = start_resident(CONFIG, deep, device=device, capture=capture)
    found = train_resident(first, ripple, 1)
    state = {name: x.cpu().clone() for name, x in first.state.tensors().items()}
    second, _ = start_resident(CONFIG, deep, device=device, capture=capture)
    second.model.load_state_dict(first.model.state_dict())
    second.state.load(state, first.state.watch.state)
    found.append(second.epoch(HostEpoch.prepare(second.stream, second.stage, ripple, 2)))
    assert found == expected
    for name, x in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], x), name
    assert second.state.steps == whole.state.steps
    assert second.state.watch.state == whole.state.watch.state


# ---- the rows of a batch -------------------------------------------------------------------------


@devices
def test_localize_padded(device):
    ids = torch.tensor([[7, 2, 9, 2, 7, 0], [1, 1, 8, 8, 3, 9]], dtype=torch.int32, device=device)
    rows, local, keys, references = localize_padded(ids, 9)
    assert rows.tolist() == [[0, 2, 7, -1, -1, -1], [1, 3, 8, -1, -1, -1]]
    assert keys.tolist() == [[0, 1, 1, 2, 2, 6], [0, 0, 1, 2, 2, 6]]
    assert references.tolist() == [[5, 1, 3, 0, 4, 2], [0, 1, 4, 2, 3, 5]]
    named = torch.where(ids < 9, local, -1)  # 9 is no entity
    assert named.tolist() == [[2, 1, -1, 1, 2, 0], [0, 0, 2, 2, 1, -1]]
    assert (local >= 0).all() and (local < 6).all()


@devices
def test_localize_padded_of_no_entity_at_all(device):
    rows, *_ = localize_padded(torch.full((1, 3), 5, dtype=torch.int32, device=device), 5)
    assert rows.tolist() == [[-1, -1, -1]]


# ---- an epoch in host memory ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "groups"), [(CONFIG, 0), (CONFIG, 500), (PLUS, 0), (LISTS, 0), (HARD, 0)]
)
def test_host_epoch_holds_the_batches_of_the_stream(config, groups):
    trainer, stream, ripple = start(config, deep=True)
    host = HostEpoch.prepare(stream, trainer.stage, ripple, 3, groups)
    order = stream.order(3)
    indptr, users_of, cuts = order.group_indptr, order.group_users, order.cuts
    if config.folds > 1:  # which share groups and ripple sets
        indptr, users_of, _ = order.shared
        cuts = order.shared_cuts
    assert host.steps == len(cuts) - 1 > 2
    assert host.group_users.shape[1] >= max(groups, 1)
    at = 0
    for i in range(host.steps):
        n, used = int(host.real_pairs[i]), cuts[i + 1] - cuts[i]
        assert torch.equal(host.items[i, :n], order.items[at : at + n])
        assert torch.equal(host.labels[i, :n], order.labels[at : at + n])
        assert host.real[i].tolist() == [1.0] * n + [0.0] * (stream.batch_size - n)
        first = cuts[i]
        users = users_of[first : first + used]
        assert torch.equal(host.group_users[i, :used], users.long())
        ends = indptr[first : first + used + 1] - indptr[first]
        assert torch.equal(host.group_indptr[i, : used + 1], ends)
        # The rest share the padding.
        assert (host.group_users[i, used:] == ripple.num_users).all()
        padding = host.group_indptr[i, used:].diff()
        assert (padding >= 0).all() and host.group_indptr[i, -1] == stream.batch_size
        assert padding.max() <= -(-(stream.batch_size - n) // len(padding))
        assert host.l2[i] == trainer.stage.lambda3 / n
        at += n
    assert at == len(order.items)
    for x, padded in zip(tensors_of(ripple), tensors_of(host.ripple), strict=True):
        assert torch.equal(padded[:-1], x) and not padded[-1].any()
    assert set(host.inputs) == set(trainer.model.pair_inputs)
    for i, batch in enumerate(stream.epoch(3, ripple)):
        further = {name: (x, host.inputs[name][i]) for name, x in batch.inputs.items()}
        if config in (LISTS, HARD):
            further["corrections"] = (batch.corrections, host.corrections[i])
        if config.folds > 1:
            further["folds"] = (batch.pair_folds, host.pair_folds[i])
            for g, bits in enumerate(host.group_folds[i].tolist()):
                begin, end = host.group_indptr[i, g : g + 2].tolist()
                real = host.real[i, begin:end] > 0
                named = set(host.pair_folds[i, begin:end][real].tolist())
                assert bits == sum(1 << fold for fold in named)
        for x, found in further.values():
            assert torch.equal(found[: len(x)], x) and not found[len(x) :].any()


def tensors_of(sets):
    found = []
    sets.each(lambda x: found.append(x) or x)
    return found


# ---- the same training ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "deep"),
    [
        *[(CONFIG, False), (CONFIG, True), (PLUS, True)],
        *[(LISTS, False), (LISTS, True), (replace(LISTS, folds=3), True)],
    ],
    ids=["pretrain", "train", "plus", "pretrain-lists", "train-lists", "folds-lists"],
)
@devices
def test_same_as_batch_by_batch(device, config, deep):
    """Native on a GPU against native on a CPU: 50 steps and more."""
    expected, stepped = train_stepped(config, deep, 5)
    trainer, ripple = start_resident(config, deep, device=device, capture=device == "cuda")
    found = train_resident(trainer, ripple, 5)
    assert stepped.state.steps >= 50
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-4)
    assert_same_training(trainer, stepped)


@pytest.mark.parametrize(
    ("config", "deep"),
    [(CONFIG, False), (CONFIG, True), (PLUS, True)],
    ids=["pretrain", "train", "plus"],
)
def test_same_with_the_specification(config, deep):
    expected, stepped = train_stepped(config, deep, 2)
    trainer, ripple = start_resident(config, deep, backend=reference)
    for ours, theirs in zip(train_resident(trainer, ripple, 2), expected, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-4)
    assert_same_training(trainer, stepped)


@pytest.mark.parametrize(
    ("folds", "deep"), [(1, False), (1, True), (3, True)], ids=["pretrain", "train", "folds"]
)
def test_same_through_the_kernels_on_the_emulated_gpu(emulated, folds, deep, monkeypatch):
    monkeypatch.setattr(fixed_shapes, "GROUP_STEP", 4)  # padding takes the emulation long
    stage = replace(CONFIG.train, batch_size=16, triples=8)
    tiny = replace(SYNTHETIC, users=40, items=60, positives=8, triples=335)
    config = replace(CONFIG, pretrain=stage, train=stage, synthetic=tiny, folds=folds)
    expected, stepped = train_stepped(config, deep, 3)
    assert stepped.state.steps >= 50
    trainer, ripple = start_resident(config, deep)
    before = emulated.launches
    with emulated.in_place_of_the_cpu():
        found = train_resident(trainer, ripple, 3)
    assert emulated.launches > before
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-4)
    assert_same_training(trainer, stepped)


def test_stages_without_some_terms():
    for change in (dict(lambda1=0.0), dict(lambda2=0.0, lambda3=0.0)):
        stage = replace(CONFIG.train, **change)
        config = replace(CONFIG, pretrain=stage, train=stage)
        expected, stepped = train_stepped(config, True, 1)
        trainer, ripple = start_resident(config, True)
        found = train_resident(trainer, ripple, 1)
        assert found[0] == pytest.approx(expected[0], rel=2e-4)
        assert_same_training(trainer, stepped)


def test_longer_epochs_and_more_groups_than_before():
    """Buffers grow, and what an epoch before left in them takes no part."""
    trainer, ripple = start_resident(CONFIG, True)
    other, _ = start_resident(CONFIG, True)
    for number, groups in ((1, 0), (2, 300), (3, 0)):
        hosts = [
            HostEpoch.prepare(t.stream, t.stage, ripple, number, max(g, t.groups))
            for t, g in ((trainer, groups), (other, 0))
        ]
        grown, plain = trainer.epoch(hosts[0]), other.epoch(hosts[1])
        assert grown == pytest.approx(plain, rel=1e-6)
    assert trainer.groups >= 300 > other.groups


def test_epoch_in_several_loads(monkeypatch):
    whole, ripple = start_resident(CONFIG, True)
    parts, _ = start_resident(CONFIG, True)
    expected = train_resident(whole, ripple, 2)
    monkeypatch.setattr(cuda_graph, "REFERENCES_AT_ONCE", 3 * 64 * 100)
    found = train_resident(parts, ripple, 2)
    assert parts._buffer.capacity < whole._buffer.capacity
    assert found == expected
    assert_same_bits(whole.model.state_dict().values(), parts.model.state_dict().values())


def test_epoch_of_one_more_batch_finds_room():
    """A captured step reads the buffer; a new one would be captured again."""
    trainer, ripple = start_resident(CONFIG, True)
    first = HostEpoch.prepare(trainer.stream, trainer.stage, ripple, 1)
    trainer.epoch(first)
    buffer = trainer._buffer
    fields = localize_batches(
        first.batches(0, first.steps, trainer.device),
        first.ripple,
        len(trainer._rows),
        trainer.stream.graph.num_relations,
    )
    longer = {name: torch.cat([x, x[-1:]]) for name, x in fields.items()}
    assert len(longer["items"]) == first.steps + 1 and buffer.fits(longer)
    buffer.load(longer)
    for name, x in buffer.at(torch.tensor([first.steps])).items():
        assert torch.equal(x, longer[name][-1]), name
    groups = first.group_users.shape[1]
    trainer.epoch(HostEpoch.prepare(trainer.stream, trainer.stage, ripple, 2, groups))
    assert trainer._buffer is buffer


def test_epoch_of_some_more_groups_finds_room(monkeypatch):
    monkeypatch.setattr(fixed_shapes, "GROUP_STEP", 1)
    monkeypatch.setattr(fixed_shapes, "GROUP_SLACK", 4)
    trainer, ripple = start_resident(CONFIG, True)
    stream, stage = trainer.stream, trainer.stage
    most = [max(np.diff(stream.order(number).cuts)) for number in range(1, 9)]
    assert len(set(most)) > 1
    number, later = 1 + most.index(min(most)), 1 + most.index(max(most))
    trainer.epoch(HostEpoch.prepare(stream, stage, ripple, number))
    buffer, groups = trainer._buffer, trainer.groups
    assert min(most) + 1 < max(most) < groups
    host = HostEpoch.prepare(stream, stage, ripple, later, groups)
    assert host.group_users.shape[1] == groups
    trainer.epoch(host)
    assert trainer._buffer is buffer
    # More than there is room for: slots for some more again, and a new buffer.
    host = HostEpoch.prepare(stream, stage, ripple, later, max(most))
    assert host.group_users.shape[1] == fixed_shapes.allotted_groups(max(most)) > max(most) + 1


def test_loss_that_is_not_finite_is_named():
    trainer, ripple = start_resident(CONFIG, True)
    with torch.no_grad():
        trainer.model.b_out.fill_(torch.inf)
    with pytest.raises(TrainingError, match=r"loss term pairs is (nan|inf) in step 1 of the train"):
        train_resident(trainer, ripple, 1)


# ---- whole runs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("resample", [False, True], ids=["one-draw", "resample"])
@devices
def test_run_ends_alike(monkeypatch, device, resample):
    config = replace(CONFIG, sampling=SamplingConfig(inverse=True, resample=resample))
    expected = train(replace(config, device="cpu"))
    if device == "cpu":
        monkeypatch.setattr(epochs, "is_resident", lambda *_: True)
    found = train(replace(config, device=device))
    assert len(found.records) == len(expected.records)
    for ours, theirs in zip(found.records, expected.records, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-3)
        assert ours.valid_auc == pytest.approx(theirs.valid_auc, abs=5e-3)


# ---- what only a GPU shows -----------------------------------------------------------------------


@pytest.mark.smoke
@pytest.mark.cuda
@pytest.mark.parametrize(
    ("config", "deep"),
    [(CONFIG, False), (CONFIG, True), (PLUS, True)],
    ids=["pretrain", "train", "plus"],
)
def test_replayed_step_equals_the_step_bit_for_bit(config, deep):
    states = []
    for capture in (False, True):
        trainer, ripple = start_resident(config, deep, device="cuda", capture=capture)
        losses = train_resident(trainer, ripple, 3)
        tensors = [*trainer.model.state_dict().values(), *trainer.state.tensors().values()]
        states.append((losses, [x.cpu() for x in tensors]))
    assert states[0][0] == states[1][0]
    assert_same_bits(states[0][1], states[1][1])


@pytest.mark.cuda
def test_gpu_repeats_itself_bit_for_bit():
    runs = [train(replace(CONFIG, device="cuda")) for _ in range(2)]
    assert [r.valid_auc for r in runs[0].records] == [r.valid_auc for r in runs[1].records]
    assert_same_bits(*([x.cpu() for x in r.model.state_dict().values()] for r in runs))


@pytest.mark.cuda
def test_epoch_waits_once():
    """Steps are queued without the host waiting for the device between them."""
    trainer, ripple = start_resident(CONFIG, True, device="cuda", capture=True)
    train_resident(trainer, ripple, 1)
    host = HostEpoch.prepare(trainer.stream, trainer.stage, ripple, 2, trainer.groups, pin=True)
    sets = host.ripple.each(torch.Tensor.cuda)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer._load(host, 0, host.steps, sets)
        step = trainer._replayable_step()
        for _ in range(host.steps):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


SANITIZED = """
import sys
sys.path[:0] = sys.argv[2:]
from support.places import module_of
tests = module_of(sys.argv[1])
for deep in (False, True):
    trainer, ripple = tests.start_resident(tests.SANITIZED_CONFIG, deep, device="cuda")
    tests.train_resident(trainer, ripple, 1)
"""
SANITIZED_CONFIG = replace(
    CONFIG,
    train=replace(CONFIG.train, batch_size=512),
    pretrain=replace(CONFIG.pretrain, batch_size=512),
    synthetic=SyntheticConfig(
        users=30, items=40, positives=6, attributes=10, parents=4, triples=220, item_links=4
    ),
)


@pytest.mark.cuda
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer(tool):
    sanitizer = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin"
    )
    if sanitizer is None:
        pytest.skip("no compute-sanitizer here")
    done = subprocess.run(
        [
            *(sanitizer, "--tool", tool, "--error-exitcode", "9", "--kernel-name"),
            *("kernel_substring=ekpnet", sys.executable, "-c", SANITIZED),
            *(__file__, str(SUPPORT.parent), str(ROOT)),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    said = done.stdout[-4000:] + done.stderr[-2000:]
    if re.search("device not supported", said, re.IGNORECASE):
        pytest.skip("compute-sanitizer does not support this machine")
    assert done.returncode == 0, said
