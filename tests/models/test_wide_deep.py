"""Wide & Deep against its equation, and what each of its stages leaves alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ekpnet_fast import ops
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.models import build
from ekpnet_fast.models.wide_deep import WideDeepOptions
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.sampling.pairs import PairRequest
from ekpnet_fast.training import loop
from support.small_training import CONFIG, load, untrained


@pytest.fixture(autouse=True)
def one_thread(threads):
    threads(1)


def config_of(**changes):
    stage = replace(CONFIG.train, epochs=1, lambda1=1.0)
    return resolve(
        replace(CONFIG, **{"model": "wide_deep", "pretrain": stage, "train": stage, **changes})
    )


def test_equation():
    model, _, stream, ripple = untrained(config_of())
    draw = torch.Generator().manual_seed(1)
    for x in (*model.parameters(), *(model.table(name) for name in model.tables)):
        x.data.normal_(0, 0.5, generator=draw)
    order = stream.order(1)
    batch = next(iter(stream.epoch(1, ripple)))
    tables = {
        name: model.table(name)[batch.rows_of(space).long()] for name, space in model.tables.items()
    }
    logits = model.logits(ops, tables, batch, stage="train")
    for b, logit in enumerate(logits.tolist()):
        u, i = int(order.group_users[batch.groups[b]]), int(order.items[b])
        one = PairRequest(
            torch.tensor([u]).int(), torch.tensor([0, 1]), torch.tensor([i]).int(), epoch=0
        )
        cross = int(model.inputs(one)["cross"])
        wide = model.wide_user[u] + model.wide_item[i] + model.wide_cross[cross]
        x = torch.cat([model.user[u], model.item[i], model.entity[i]])
        x = torch.relu(x @ model.W_1 + model.b_1)
        x = torch.relu(x @ model.W_2 + model.b_2)
        expected = (wide + x @ model.w_out + model.b_out).item()
        assert logit == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_crosses_spread():
    """By chance over all weights: n crosses on n weights meet 1 - 1/e of them."""
    config = config_of(options=WideDeepOptions(crosses=1000))
    model = build.build_model(config, *load(config))
    users = torch.arange(50, dtype=torch.int32)
    items = torch.arange(20, dtype=torch.int32).repeat(50)
    found = model.inputs(PairRequest(users, torch.arange(51) * 20, items, epoch=0))["cross"]
    assert found.dtype == torch.int32 and found.min() >= 0 and found.max() < 1000
    assert 550 < len(set(found.tolist())) < 720


def test_stages():
    """Triples move entities and TransR only; clicks move everything else and only that."""
    config = config_of(options=WideDeepOptions(crosses=1000))
    data = load(config)
    start = build.build_model(config, *data).state_dict()
    idle = replace(config.train, epochs=0)
    pretrained = loop.train(replace(config, train=idle), *data).model.state_dict()
    trained = loop.train(config, *data).model.state_dict()
    of_triples = {"entity", "transr.relation", "transr.projection"}
    assert of_triples == {k for k in start if not torch.equal(start[k], pretrained[k])}
    moved = {k for k in start if not torch.equal(pretrained[k], trained[k])}
    assert moved == set(start) - of_triples


@pytest.mark.parametrize(
    ("option", "value"), [("hidden", 0), ("crosses", 0), ("crosses", (1 << 24) + 1)]
)
def test_sizes_out_of_range(option, value):
    with pytest.raises(ConfigError, match=f"--wide_deep.{option} is {value}, expected 1 to"):
        config_of(options=replace(WideDeepOptions(), **{option: value}))
