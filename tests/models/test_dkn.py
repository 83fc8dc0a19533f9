"""DKN against its equations, pair by pair, and how titles become words."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ekpnet_fast import ops
from ekpnet_fast.errors import ConfigError, DataError
from ekpnet_fast.evaluation import scoring
from ekpnet_fast.models.dkn import DKN, LIMITS, DKNOptions
from ekpnet_fast.models.titles import encode, tokenize
from ekpnet_fast.runs import runner
from ekpnet_fast.runs.options import parse_command
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.sampling.pairs import PairRequest
from ekpnet_fast.sampling.ripple_sets import RippleSets
from ekpnet_fast.training import loop
from support.small_training import CONFIG, load, untrained

OPTIONS = DKNOptions(words=2, widths=3, filters=4, history=3, neighbors=2, hidden=5)


@pytest.fixture(autouse=True)
def one_thread(threads):
    threads(1)


@pytest.fixture
def setup():
    """A model with every weight drawn, as its biases start from 0, and the batches of an epoch."""
    model, _, stream, ripple = untrained(replace(CONFIG, model="dkn", options=OPTIONS))
    draw = torch.Generator().manual_seed(1)
    for x in (*model.parameters(), model.word, model.entity):
        x.data.normal_(0, 0.5, generator=draw)
    return model, stream, ripple


# ---- equations -----------------------------------------------------------------------------------


def kcnn(model, word, entity, words, centre, neighbors):
    """v of an item, from ids, in plain loops (eq. 8-11)."""
    D, F = model.shape.width, OPTIONS.filters
    near = sum((entity[e] for e in neighbors), torch.zeros(D)) / max(1, len(neighbors))
    knowledge = torch.cat([torch.tanh(x @ model.M + model.b) for x in (entity[centre], near)])
    W = model.word_filters.view(D, -1, F)
    V = model.knowledge_filters.view(2 * D, -1, F)
    found, first = [], 0
    for width in range(1, OPTIONS.widths + 1):
        bias = model.filter_bias.view(-1, F)[width - 1]
        maps = []
        for start in range(len(words)):
            total = bias
            for k, w in enumerate(words[start : start + width]):
                total = total + word[w] @ W[:, first + k] + knowledge @ V[:, first + k]
            maps.append(torch.relu(total))
        found.append(torch.stack(maps).amax(0))
        first += width
    return torch.cat(found)


def predict(model, history, target):
    """Logit from v of the history and of the target (eq. 12, 13)."""
    if history:
        scores = [
            torch.relu(v @ model.A_history + target @ model.A_target + model.a_1) @ model.a_2
            for v in history
        ]
        weights = torch.softmax(torch.cat(scores), 0)
        user = sum(w * v for w, v in zip(weights, history, strict=True))
    else:
        user = torch.zeros_like(target)
    hidden = torch.relu(torch.cat([user, target]) @ model.P_1 + model.p_1)
    return (hidden @ model.P_2 + model.p_2).squeeze(0)


def test_equations_and_gradients(setup):
    model, stream, ripple = setup
    source, order = model.source, stream.order(2)
    batch = next(iter(stream.epoch(2, ripple)))
    users = order.group_users[batch.groups]
    titles = model.title_words, model.title_counts
    graph = source.graph
    found, met = [], set()
    for plain in (False, True):
        word, entity = (x.detach().clone().requires_grad_() for x in (model.word, model.entity))
        if not plain:
            tables = {
                "word": word[batch.rows_of("word").long()],
                "entity": entity[batch.rows.long()],
            }
            logits = model.logits(ops, tables, batch, stage="train")
        else:

            def vector(i, word=word, entity=entity):
                _, tails, counts = ops.sample_neighbors(
                    graph.indptr,
                    graph.relations,
                    graph.tails,
                    torch.tensor([i], dtype=torch.int32),
                    OPTIONS.neighbors,
                    seed=0,
                    epoch=2,
                )
                words = titles[0][i, : titles[1][i]].tolist()
                return kcnn(model, word, entity, words, i, tails[0, : counts[0]].tolist())

            rows = []
            for b in range(batch.num_pairs):
                u, i = int(users[b]), int(order.items[b])
                g = int(batch.groups[b])
                inputs = batch.inputs
                slots = inputs["history"][g, : inputs["history_counts"][g]].long()
                items = batch.rows[inputs["centres"][slots].long()].tolist()
                begin, end = source.history_indptr[u : u + 2].tolist()
                assert len(items) == len(set(items)) == min(OPTIONS.history, end - begin)
                assert set(items) <= set(source.history_items[begin:end].tolist())
                met.add((i in items, len(items)))
                rows.append(predict(model, [vector(j) for j in items if j != i], vector(i)))
            logits = torch.stack(rows)
        weights = torch.linspace(-1, 1, len(logits))
        leaves = [word, entity, *model.parameters()]
        found.append((logits, *torch.autograd.grad((logits * weights).sum(), leaves)))
    assert {inside for inside, _ in met} == {True, False}
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_a_history_of_the_target_alone_is_none(setup):
    """And no number is lost to it, in the gradient neither."""
    model, _, _ = setup
    source = model.source
    user = 0
    only = source.history_items[int(source.history_indptr[0])].reshape(1)
    model.source = replace(
        source,
        history_items=only,
        history_indptr=torch.ones_like(source.history_indptr).index_fill_(0, torch.tensor([0]), 0),
    )
    request = PairRequest(torch.tensor([user]).int(), torch.tensor([0, 1]), only, epoch=1)
    inputs = model.inputs(request)
    assert inputs["history_counts"].tolist() == [1]
    scorer = scoring.Scorer.of(ops, model, "train", torch.device("cpu"))
    groups = scoring.UserGroups(request.users, RippleSets.none(1))
    pairs = scorer.pairs(groups, request.group_indptr, request.items)
    tables = {"word": model.word, "entity": model.entity}
    logit = model.logits(ops, tables, pairs, stage="train")
    v = model.items(tables, pairs.inputs)[pairs.inputs["targets"].long()]
    assert torch.allclose(logit[0], predict(model, [], v[0]), rtol=1e-4)
    logit.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_histories_are_drawn_anew_by_epoch_and_seed(setup):
    model, _, _ = setup
    users = torch.arange(20, dtype=torch.int32)
    indptr, items = torch.arange(21), torch.zeros(20, dtype=torch.int32)

    def drawn(epoch, seed=0):
        model.source = replace(model.source, seed=seed)
        found = model.inputs(PairRequest(users, indptr, items, epoch))
        return found["centres"][found["history"].long()]

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2)) and not torch.equal(drawn(1), drawn(1, seed=1))


# ---- real data -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.data
def test_movielens(data_root):
    """Three epochs of the default preset, above item popularity (0.891); Last.FM has no titles."""
    given = ["--model", "dkn", "--dataset", "movielens-1m", "--data-root", str(data_root)]
    found = runner.run(parse_command([*given, "--ranking", "false", "--epochs", "3"]).config)
    assert found["test"]["auc"] == pytest.approx(0.8936, abs=0.002)
    with pytest.raises(DataError, match="found no titles, without which --model dkn"):
        runner.run(parse_command([*given[:2], "--dataset", "last-fm", *given[4:]]).config)


# ---- titles --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("Toy Story (1995)", ["toy", "story", "1995"]),
        ("L'Avventura: don\u2019t_stop!", ["l'avventura", "don\u2019t", "stop"]),
        ("\u00c0 bout de souffle", ["\u00e0", "bout", "de", "souffle"]),
        ("A\u0300 \uff21", ["\u00e0", "a"]),
        ("--- ", []),
    ],
)
def test_tokens(title, words):
    assert tokenize(title) == words


def test_encoded_titles():
    words, counts, vocabulary = encode(["Heat 95", "", "The heat of The night"], 3)
    assert vocabulary == ["", "heat", "95", "the", "of"]
    assert words.tolist() == [[1, 2, 0], [0, 0, 0], [3, 1, 4]]
    assert counts.tolist() == [2, 1, 3]
    assert words.dtype == counts.dtype == torch.int32


# ---- what is refused -----------------------------------------------------------------------------


def test_a_data_set_without_titles_is_refused_before_it_is_trained_on():
    config = resolve(replace(CONFIG, model="dkn"))
    prepared, graph = load(config, lambda dataset: replace(dataset, item_names=None))
    told = []
    with pytest.raises(DataError, match=r"--model dkn reads .* without titles, expected item_name"):
        loop.train(config, prepared, graph, told.append)
    assert not told


@pytest.mark.parametrize("option", LIMITS)
def test_sizes_out_of_range(option):
    for value in (0, LIMITS[option] + 1):
        options = replace(DKNOptions(), **{option: value})
        with pytest.raises(ConfigError, match=f"--dkn.{option} is {value}, expected 1 to"):
            resolve(replace(CONFIG, model="dkn", options=options))
    assert DKN.Options is DKNOptions
