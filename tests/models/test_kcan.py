"""KCAN against its equations, pair by pair, over the graph that was sampled."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import pytest
import torch

from ekpnet_fast import ops
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.models.kcan import KCANOptions
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.sampling.pairs import PairRequest
from support.small_training import CONFIG, untrained


def start(hops=2, options=None):
    shape = replace(CONFIG.shape, hops=hops)
    options = options or KCANOptions(sampled=4, kept=3)
    made = untrained(replace(CONFIG, model="kcan", shape=shape, options=options), triples=6)
    model = made.model
    with torch.no_grad():  # so that attention is not all but uniform
        for weights in (model.entity, model.user, model.relation, model.W_c):
            weights *= 3
    return model, made.batch()


class ByDefinition:
    """The equations in plain loops over one batch's sampled graph; nodes are (kind, id)."""

    def __init__(self, model, batch, entity, user):
        self.model, self.batch, self.H = model, batch, len(model.W)
        inputs = batch.inputs
        both = [entity[e.long()] for e in inputs["entities"]]
        both += [user[u.long()] for u in inputs["users"]]
        self.x = [both[at] for at in inputs["order"].tolist()]
        tails = torch.cat([inputs[f"tails.{d}"] for d in range(self.H)])
        self.near = [[] for _ in tails]
        places = inputs["valid"].nonzero().tolist()
        for (node, k), r in zip(places, inputs["relations"].tolist(), strict=True):
            self.near[node].append((int(tails[node, k]), r))
        self.pi = [self._pi(node) for node in range(len(self.near))]

    def relation(self, r):
        """The translation of a relation, and the unit normal of its hyperplane."""
        m, R = self.model, len(self.model.relation)
        v, w = (m.relation[r], m.normal[r]) if r < R else m.interacts[r - R]
        return v, w / w.norm()

    def _pi(self, node):
        scores = []
        for tail, r in self.near[node]:
            v, w = self.relation(r)
            h, t = (self.x[n] - (w @ self.x[n]) * w for n in (node, tail))
            scores.append(t @ torch.tanh(h + v))
        return torch.softmax(torch.stack(scores), 0) if scores else torch.zeros(0)

    def g(self, node, layer):
        if layer == 0:
            return self.x[node]
        near = zip(self.pi[node], self.near[node], strict=True)
        mixed = sum((p * self.g(t, layer - 1) for p, (t, _) in near), self.g(node, layer - 1))
        return torch.tanh(mixed @ self.model.W[layer - 1])

    def z(self, node, d, c, target):
        """The refined vector of a node d hops away."""
        own = self.g(node, self.H - d)
        if d == self.H:
            return own
        best = self.pi[node].argsort(descending=True)[: self.model.options.kept]
        kept = [self.near[node][k][0] for k in best.tolist()]
        if d == 0:
            kept = [j for j in kept if j not in target]
        mixed = own
        if kept:
            scores = torch.stack([(c * own * self.g(j, self.H - d - 1)).sum() for j in kept])
            for a, j in zip(torch.softmax(scores, 0), kept, strict=True):
                mixed = mixed + a * self.z(j, d + 1, c, target)
        return torch.tanh(mixed @ self.model.V[d])

    def logits(self):
        inputs, found = self.batch.inputs, []
        pairs = (
            inputs[f"{kind}_roots"][inputs[f"{kind}_at"]].tolist() for kind in ("user", "item")
        )
        for u, i in zip(*pairs, strict=True):
            c = torch.cat([self.g(u, self.H), self.g(i, self.H)]) @ self.model.W_c
            found.append(self.z(u, 0, c, (u, i)) @ self.z(i, 0, c, (u, i)))
        return torch.stack(found)

    def kg_sum(self, entity, user):
        batch, B, n = self.batch, self.batch.num_pairs, len(self.batch.triple_heads) // 2

        def f(head, r, tail):
            v, w = self.relation(r)
            h, t = (x - (w @ x) * w for x in (head, tail))
            return (h + v - t).square().sum()

        def drawn(i):
            h, t = batch.triple_heads[i].long(), batch.triple_tails[i].long()
            return f(entity[h], int(batch.triple_relations[i]), entity[t])

        total = -sum(torch.log(torch.sigmoid(drawn(i + n) - drawn(i))) for i in range(n))
        for b in range(B):
            if batch.labels[b] > 0:
                u, R = user[batch.users[batch.groups[b]].long()], len(self.model.relation)
                items = (entity[batch.items[k].long()] for k in (b, (b - B // 2) % B))
                true, corrupted = (f(u, R, item) for item in items)
                total = total - torch.log(torch.sigmoid(corrupted - true))
        return total


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_equations_and_gradients(hops):
    model, batch = start(hops)
    valid = batch.inputs["valid"]
    assert valid.any() and not valid.all()
    found = []
    for plain in (False, True):
        entity = model.entity[batch.rows.long()].requires_grad_()
        user = model.user[batch.rows_of("user").long()].requires_grad_()
        if plain:
            definition = ByDefinition(model, batch, entity, user)
            logits, kg = definition.logits(), definition.kg_sum(entity, user)
        else:
            tables = {"entity": entity, "user": user}
            logits = model.logits(ops, tables, batch, stage="train")
            kg = model.kg_sum(ops, tables, batch, stage="train")
        leaves = [entity, user, *model.parameters()]
        weights = torch.linspace(-1, 1, len(logits))
        found.append((logits, kg, *torch.autograd.grad((logits * weights).sum() + kg, leaves)))
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def reach_of(inputs):
    """Number of nodes at most d hops away, for d from 0 to H."""
    rings = [len(x) for name, x in inputs.items() if name.startswith("tails.")]
    return [*accumulate(rings), len(inputs["order"])]


def test_sampled_graph():
    """Every node once; its neighbours are triples and interactions of the train positives."""
    model, _ = start()
    source, E = model.source, model.source.graph.num_entities
    request = PairRequest(
        torch.tensor([3, 5, 3], dtype=torch.int32),
        torch.tensor([0, 2, 3, 4]),
        torch.tensor([7, 8, 7, 9], dtype=torch.int32),
        epoch=1,
    )
    inputs = model.inputs(request)
    both = torch.cat([inputs["entities"], inputs["users"] + E])
    nodes = both[inputs["order"]].tolist()
    reach = reach_of(inputs)
    assert len(set(nodes)) == len(nodes) == reach[-1]
    assert set(nodes[: reach[0]]) == {3 + E, 5 + E, 7, 8, 9}
    for kind, expected in (("user", [3 + E, 3 + E, 5 + E, 3 + E]), ("item", [7, 8, 7, 9])):
        roots = inputs[f"{kind}_roots"]
        assert len(set(roots.tolist())) == len(roots)
        assert [nodes[n] for n in roots[inputs[f"{kind}_at"]]] == expected
    edges = set()
    graph, R = source.graph, source.graph.num_relations
    heads = torch.repeat_interleave(graph.indptr.diff()).tolist()
    edges |= set(zip(heads, graph.relations.tolist(), graph.tails.tolist(), strict=True))
    users = torch.repeat_interleave(source.history_indptr.diff()).tolist()
    for user, item in zip(users, source.history_items.tolist(), strict=True):
        edges |= {(user + E, R, item), (item, R + 1, user + E)}
    degree = {node: sum(h == node for h, _, _ in edges) for node in set(nodes)}
    S = model.options.sampled
    tails = torch.cat([inputs[f"tails.{d}"] for d in range(model.shape.hops)])
    places = inputs["valid"].nonzero()
    assert inputs["slots"].tolist() == [n * 2 * S + k for n, k in places.tolist()]
    for (n, k), r in zip(places.tolist(), inputs["relations"].tolist(), strict=True):
        assert (nodes[n], r, nodes[int(tails[n, k])]) in edges
    for n in range(reach[-2]):
        assert int(inputs["valid"][n].sum()) >= min(degree[nodes[n]], S)


def test_work_is_bounded_by_the_sample():
    """A larger graph does not make a pair reach further than its sampled neighbours."""
    model, _ = start(options=KCANOptions(sampled=2, kept=2))
    pair = PairRequest(torch.tensor([0], dtype=torch.int32), torch.tensor([0, 1]),
                   torch.tensor([1], dtype=torch.int32), epoch=1)  # fmt: skip
    reach = reach_of(model.inputs(pair))
    assert reach[0] == 2 and reach[1] <= 2 * (1 + 4) and reach[2] <= 2 * (1 + 4 + 16)


@pytest.mark.parametrize(
    ("options", "named"),
    [(KCANOptions(sampled=0), "sampled"), (KCANOptions(sampled=4, kept=9), "kept")],
)
def test_options_that_cannot_be(options, named):
    with pytest.raises(ConfigError, match=f"--kcan.{named} is"):
        resolve(replace(CONFIG, model="kcan", options=options))
