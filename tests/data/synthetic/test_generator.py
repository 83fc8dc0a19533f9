"""Synthetic data: reproducible, consistent, and with the planted truth in reach."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from ekpnet_fast.data import SyntheticConfig, load_dataset, make_synthetic, prepare
from ekpnet_fast.errors import ConfigError


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve; ties count half."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positives = int(labels.sum())
    above = ranks[labels == 1].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(labels) - positives)))


@pytest.fixture(scope="module")
def default():
    return load_dataset("synthetic")


@pytest.fixture(scope="module")
def prepared(default):
    return prepare(default, 0)


def popularity(data):
    train = data.train.items[data.train.labels == 1]
    return np.bincount(train, minlength=data.dataset.num_items)


def test_same_configuration_same_data(default, prepared):
    assert prepare(load_dataset("synthetic"), 0).hash == prepared.hash == "bacc6685fc7e9b85"
    other = load_dataset("synthetic", synthetic=SyntheticConfig(seed=1))
    assert prepare(other, 0).hash != prepared.hash


def test_blocks_do_not_change_the_data(default, monkeypatch):
    for module in ("generator", "clicks"):
        monkeypatch.setattr(f"ekpnet_fast.data.synthetic.{module}._BLOCK_CELLS", 70_000)
    small = make_synthetic(SyntheticConfig())
    assert small.rows.items.tolist() == default.rows.items.tolist()
    np.testing.assert_allclose(small.oracle, default.oracle, rtol=1e-6)


def test_counts_are_as_configured(default):
    config = SyntheticConfig()
    assert (default.num_users, default.num_items) == (config.users, config.items)
    assert default.num_entities == config.num_entities
    assert default.num_triples == config.triples == sum(config.triple_counts)
    assert default.num_relations == config.relations == len(default.relation_names)
    positives = np.bincount(default.rows.users[default.rows.labels == 1])
    negatives = np.bincount(default.rows.users[default.rows.labels == 0])
    assert positives.tolist() == negatives.tolist() and positives.min() >= 1
    assert abs(positives.mean() - config.positives) < 1


def test_graph_has_distinct_triples_no_loops_and_two_levels(default):
    config = SyntheticConfig()
    triples = np.stack([default.heads, default.relations, default.tails], axis=1)
    assert len(np.unique(triples, axis=0)) == len(triples)
    assert not (default.heads == default.tails).any()
    first_parent = config.items + config.attributes
    to_attribute = default.relations < config.relations - 2
    assert default.heads[to_attribute].max() < config.items
    assert default.tails[to_attribute].min() >= config.items
    assert default.tails[to_attribute].max() < first_parent
    to_parent = default.relations == config.relations - 2
    assert default.tails[to_parent].min() >= first_parent
    used = np.unique(np.concatenate([default.heads, default.tails]))
    assert used.tolist() == list(range(config.num_entities))


def test_titles_name_the_attributes(default):
    """The first three tails of an item's links, fewer if it has fewer."""
    attributes = range(default.num_items, default.num_items + SyntheticConfig().attributes)
    noise = default.num_relations - 1
    linked = {}
    for h, r, t in zip(default.heads, default.relations, default.tails, strict=True):
        if h < default.num_items and t in attributes and r != noise:
            linked.setdefault(h, []).append(f"attribute{t - default.num_items}")
    assert len(default.item_names) == default.num_items
    for item, title in enumerate(default.item_names):
        assert title == " ".join(linked[item][:3])


def test_no_row_twice(default):
    keys = default.rows.users.astype(np.int64) * default.num_items + default.rows.items
    assert len(np.unique(keys)) == len(keys)


def test_oracle_is_a_log_probability(default):
    assert default.oracle.dtype == np.float32 and len(default.oracle) == len(default.rows)
    assert np.isfinite(default.oracle).all() and default.oracle.max() < 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_oracle_beats_popularity_by_the_planted_margin(seed):
    data = prepare(make_synthetic(SyntheticConfig(seed=seed)), seed)
    labels = data.test.labels
    assert 0.85 < auc(labels, data.oracle_test) < 0.92
    assert 0.64 < auc(labels, popularity(data)[data.test.items]) < 0.72


def test_graph_says_more_than_co_clicks(prepared):
    """Mean similarity to the history, by shared attributes and parents against shared users."""
    dataset, test = prepared.dataset, prepared.test
    owners = np.repeat(np.arange(dataset.num_users), np.diff(prepared.history_indptr))
    size = (dataset.num_users, dataset.num_items)
    clicked = matrix(owners, prepared.history_items, size)
    share = sparse.diags_array(1 / np.maximum(clicked.sum(axis=1), 1)) @ clicked

    true = dataset.relations < dataset.num_relations - 1
    size = (dataset.num_entities, dataset.num_entities)
    step = matrix(dataset.heads[true], dataset.tails[true], size)
    first = step[: dataset.num_items]
    second = (first @ step).toarray()
    content = np.hstack([unit(first.toarray()), unit(second - second.mean(axis=0))])
    content = content[:, content.any(axis=0)]
    by_graph = np.einsum("nd,nd->n", (share @ content)[test.users], content[test.items])
    # The users of an item's clicks; no test item is in its user's history, so none meets itself.
    company = sparse.diags_array(1 / np.maximum(clicked.sum(axis=0), 1) ** 0.5) @ clicked.T
    by_clicks = ((share @ company)[test.users] * company[test.items]).sum(axis=1)
    popular = np.log(popularity(prepared) + 1)[test.items]
    with_graph = standard(by_graph) + standard(popular)
    assert auc(test.labels, with_graph) > auc(test.labels, by_clicks) + 0.02
    assert auc(test.labels, with_graph) > auc(test.labels, popular) + 0.04


def matrix(rows, columns, size):
    """1 where there is an entry."""
    found = sparse.csr_array((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=size)
    found.sum_duplicates()
    found.data[:] = 1
    return found


def unit(table):
    return table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-6)


def standard(values):
    return (values - values.mean()) / values.std()


def test_paper_size_counts():
    config = SyntheticConfig.movielens_1m()
    assert config.num_entities == 182_011
    assert (config.users, config.items, config.relations) == (6036, 2445, 12)
    assert config.triples == sum(config.triple_counts) == 1_241_995
    assert SyntheticConfig.movielens_1m(seed=3, users=50).users == 50


def test_book_crossing_counts():
    config = SyntheticConfig.book_crossing()
    assert config.num_entities == 77_903
    assert (config.users, config.items, config.relations) == (17_860, 14_967, 25)
    assert config.triples == sum(config.triple_counts) == 151_500


def test_degrees_have_a_heavy_tail():
    config = SyntheticConfig.large(200_000, users=50, items=100, positives=5, item_links=300.0)
    data = make_synthetic(config)
    assert data.num_triples == 200_000
    triples = np.stack([data.heads, data.relations, data.tails], axis=1)
    assert len(np.unique(triples, axis=0)) == len(triples)
    inward = np.bincount(data.tails)
    assert inward.max() > 20 * inward.mean()


def test_smallest_sizes():
    config = SyntheticConfig(
        users=1,
        items=2,
        positives=1,
        attributes=1,
        parents=1,
        relations=3,
        triples=4,
        item_links=1.0,
        noise=0.25,
        favourites=1,
        latent=1,
    )
    data = make_synthetic(config)
    assert data.rows.labels.tolist() == [1, 0] and data.num_triples == 4
    assert np.isfinite(data.oracle).all()


BAD = {
    "users": ({"users": 0}, "synthetic.users: found 0, expected at least 1"),
    "items": ({"items": 1}, "synthetic.items: found 1, expected at least 2"),
    "relations": ({"relations": 2}, "synthetic.relations: found 2, expected at least 3"),
    "noise": ({"noise": 1.0}, "synthetic.noise: found 1.0, expected at least 0 and below 1"),
    "nan": ({"sharpness": float("nan")}, "synthetic.sharpness: found nan, expected at least 0"),
    "share": ({"parent_share": 1.5}, "synthetic.parent_share: found 1.5, expected from 0 to 1"),
    "few triples": ({"triples": 8000}, "synthetic.triples: found 24000 triples from items"),
    "many triples": ({"triples": 100_000}, "synthetic.triples: found 24000 triples from items"),
    "many links": ({"item_links": 200.0, "triples": 10**6}, "synthetic.item_links: found"),
    "entities": ({"attributes": 2**31}, "expected at most 2147483647"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD.keys())
def test_bad_configurations(changes, message):
    with pytest.raises(ConfigError) as caught:
        SyntheticConfig(**changes)
    assert message in str(caught.value)


def test_bad_seed():
    with pytest.raises(ConfigError, match="seed: found -1"):
        make_synthetic(SyntheticConfig(seed=-1))
