"""KCAN (Tu et al., CIKM 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ekpnet_fast import ops
from ekpnet_fast.config import RunConfig
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.models.base import Defaults, Model, initial_rows, xavier
from ekpnet_fast.models.rules import Rules, batch_size, by_density, if_dense
from ekpnet_fast.models.translation import on_hyperplane, ranking_sum, transh_distance
from ekpnet_fast.ops.deterministic import gather, in_pieces, linear, linear_by_relation
from ekpnet_fast.sampling.pairs import Batch, BatchPlan, Inputs, PairRequest, Pairs, TrainContext

LOWEST = -1e30  # of a masked score; finite, because all slots may be masked


@dataclass(frozen=True)
class KCANOptions:
    """Options of KCAN alone.

    Attributes:
        sampled: triples, and as many interactions, that are drawn of each node, 1 to 64.
        kept: neighbours of a node in the subgraph of a target, at most 2 * sampled.
    """

    sampled: int = 8
    kept: int = 4


class KCAN(Model):
    """KCAN: a subgraph per target, distilled by global attention and refined by the target's own.

    Nodes are entities and users, joined by the relation "interacts" of the train positives.

        (1) TransH on all triples: f(h, r, t) = |h' + r - t'|^2, x' = x - (w_r . x) w_r
        (2) pi(h, r, t) = softmax_t(t' . tanh(h' + r)),  g^0 the rows of the tables,
            g^l = tanh((g^{l-1} + sum_t pi g_t^{l-1}) W_l);
            the K neighbours of a node with the largest pi are kept
        (3) s(n, j) = sum (c * g_n * g_j) with c = [g_u || g_i] W_c,  alpha = softmax_j(s),
            z_n = tanh((g_n + sum_j alpha z_j) V_d), from the edge of the subgraph to u and to i
        (4) y = sigma(z_u . z_i)

    with H hops and as many layers. Readings of what is left open: TransH and not TransR, with
    -log sigma(f(corrupted) - f(true)); pi by KGAT's form; the conditional score is the product
    above; the towers are joined by a dot. The edge between u and i themselves is left out of their
    subgraph, because in training it is the answer.

    Departure: work per step does not grow with the graph. Each node has a sample of its triples
    and one of its interactions, the same wherever it appears in an epoch, so that (2) is computed
    once for each distinct node within H hops of the batch; pi is a softmax over the sample, and a
    node d hops away has g of H - d layers, as far as the sample reaches. Of an interaction that
    is corrupted for (1), the item is that of another pair of the batch.

    Attributes:
        entity, user: [E, D], [U, D].
        relation, normal: [R, D], w_r before it is scaled to norm 1.
        interacts: [2, 2, D], relation and normal of an interaction and of its inverse.
        W, V: [H, D, D], of the layers of (2) and of the depths of (3).
        W_c: [2 D, D].
    """

    name = "kcan"
    blocks = 8
    uncut = "takes other items of the same mini-batch as negatives"
    summary = "KCAN: target-specific subgraphs, distilled and refined by attention, TransH"
    Options = KCANOptions
    tables: ClassVar[Mapping[str, str]] = {"entity": "entity", "user": "user"}
    relation_tables = ("relation", "normal")
    asked = ("positives",)
    input_spaces: ClassVar[Mapping[str, str]] = {"entities": "entity", "users": "user"}
    defaults: ClassVar[Defaults] = {
        "shape.hops": 1,
        "train.epochs": 10,
        "train.group_size": 1,
    }
    rules: ClassVar[Rules] = {
        "shape.width": if_dense(4, 16),
        "train.batch_size": partial(batch_size, most=1024),
        "train.lr": by_density(8e-3, 6.5e-3),
        "train.lambda3": by_density(5.5, 1e-3),
    }

    def __init__(self, config: RunConfig, source: TrainContext) -> None:
        super().__init__(config, source)
        D, H, init = self.shape.width, self.shape.hops, self.shape.init
        graph, draw = source.graph, self.draw
        E, R = graph.num_entities, graph.num_relations
        self.add_table("entity", initial_rows((E, D), init, draw))
        self.add_table("user", initial_rows((source.num_users, D), init, draw))
        self.relation = nn.Parameter(initial_rows((R, D), init, draw))
        self.normal = nn.Parameter(xavier((R, D), D, D, draw))
        self.interacts = nn.Parameter(xavier((2, 2, D), D, D, draw))
        self.W = nn.Parameter(xavier((H, D, D), D, D, draw))
        self.V = nn.Parameter(xavier((H, D, D), D, D, draw))
        self.W_c = nn.Parameter(xavier((2 * D, D), 2 * D, D, draw))
        # Both graphs have every node: entities first, then users.
        user = torch.repeat_interleave(source.history_indptr.diff()).int() + E
        item = source.history_items
        nodes = E + source.num_users
        self.triples = (
            torch.cat([graph.indptr, graph.indptr[-1:].expand(source.num_users)]),
            graph.relations,
            graph.tails,
        )
        self.clicks = ops.build_csr(
            torch.cat([user, item]),
            torch.cat([torch.full_like(user, R), torch.full_like(item, R + 1)]),
            torch.cat([item, user]),
            nodes,
            R + 2,
        )

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """Check that samples are bounded, and that no more is kept than was drawn."""
        sampled, kept = config.options.sampled, config.options.kept
        if not 1 <= sampled <= 64:
            raise ConfigError(f"--kcan.sampled is {sampled}, expected 1 to 64")
        if not 1 <= kept <= 2 * sampled:
            raise ConfigError(
                f"--kcan.kept is {kept}, expected 1 to 2 * --kcan.sampled = {2 * sampled}"
            )

    @classmethod
    def plan(cls, config: RunConfig, stage: str) -> BatchPlan:
        """Plan true and corrupted triples in every batch."""
        return BatchPlan(triples="joined")

    # ---- the sampled graph around a batch --------------------------------------------------------

    def inputs(self, request: PairRequest) -> Inputs:
        """Nodes within H hops and their sampled neighbours.

        Nodes are numbered by hops, those of the pairs first. Where hops end is told by shapes and
        not by numbers, for which a GPU would be waited for; so are valid slots by their places.

        entities, users: ids of the nodes of either kind.
        order: [N] int64, position of each node in entities, followed by users.
        tails.d: [n_d, 2 S] int64, for d below H: neighbours, as nodes, of the nodes d hops away.
        valid: [n, 2 S], of all of those.
        slots, relations: [V] int64 and int32, place of each valid neighbour, and its relation.
        user_roots, user_at: [m] and [B] int64, the distinct users, as nodes, and that of each pair.
        item_roots, item_at: likewise.
        """
        E = self.source.graph.num_entities
        nodes, roots = ops.localize(torch.cat([request.users + E, request.items]))
        frontier, found, rings = nodes, [], {}
        for d in range(self.shape.hops):
            relations, tails, valid = self._neighbors(frontier, request.epoch)
            n = len(nodes)
            nodes, positions = ops.localize(torch.cat([nodes, tails[valid]]))
            tails = torch.zeros_like(tails).masked_scatter_(valid, positions[n:])
            frontier = nodes[n:]
            rings[f"tails.{d}"] = tails.long()
            found.append((relations, valid))
        relations, valid = (torch.cat(x) for x in zip(*found, strict=True))
        is_user = nodes >= E
        rank = torch.where(is_user, is_user.cumsum(0) + (~is_user).sum(), (~is_user).cumsum(0)) - 1
        groups = torch.repeat_interleave(request.group_indptr.diff())
        user_nodes, item_nodes = roots[: len(request.users)][groups], roots[len(request.users) :]
        user_roots, user_at = torch.unique(user_nodes.long(), return_inverse=True)
        item_roots, item_at = torch.unique(item_nodes.long(), return_inverse=True)
        return {
            "entities": nodes[~is_user],
            "users": nodes[is_user] - E,
            "order": rank,
            **rings,
            "valid": valid,
            "slots": valid.flatten().nonzero().squeeze(1),
            "relations": relations[valid],
            "user_roots": user_roots,
            "user_at": user_at,
            "item_roots": item_roots,
            "item_at": item_at,
        }

    def _neighbors(self, nodes: Tensor, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Relations, tails and the mask of valid ones, [n, 2 S]: triples, then interactions."""
        S, found = self.options.sampled, []
        for graph in (self.triples, self.clicks):
            relations, tails, counts = ops.sample_neighbors(
                *graph, nodes, S, seed=self.source.seed, epoch=epoch
            )
            found.append((relations, tails, torch.arange(S) < counts.unsqueeze(1)))
        relations, tails, valid = (torch.cat(x, dim=1) for x in zip(*found, strict=True))
        return relations, tails, valid

    # ---- the model -------------------------------------------------------------------------------

    def logits(
        self, backend: ModuleType, tables: Mapping[str, Tensor], pairs: Pairs, *, stage: str
    ) -> Tensor:
        """Logits [B]."""
        inputs = pairs.inputs
        both = torch.cat(
            [gather(tables["entity"], inputs["entities"]), gather(tables["user"], inputs["users"])]
        )
        x = gather(both, inputs["order"])  # [N, D]
        rings = [inputs[f"tails.{d}"] for d in range(self.shape.hops)]
        tails = torch.cat(rings)  # [n, 2 S]
        pi = self.knowledge_attention(x, tails, inputs)  # [n, 2 S]
        g = self.global_vectors(x, pi, tails, [*accumulate(map(len, rings))])
        best = pi.detach().topk(min(self.options.kept, pi.shape[1]), dim=1).indices
        kept = tails.gather(1, best), inputs["valid"].gather(1, best)
        towers = [(inputs[f"{kind}_roots"], inputs[f"{kind}_at"]) for kind in ("user", "item")]
        c = [
            gather(linear(gather(g[-1], roots), W), at)
            for (roots, at), W in zip(towers, self.W_c.chunk(2), strict=True)
        ]
        other = [roots[at] for roots, at in reversed(towers)]
        z = [
            self.refine(g, kept, roots, at, c[0] + c[1], left_out)
            for (roots, at), left_out in zip(towers, other, strict=True)
        ]
        return (z[0] * z[1]).sum(1)

    def knowledge_attention(self, x: Tensor, tails: Tensor, inputs: Inputs) -> Tensor:
        """Attention pi [n, 2 S] to the sampled neighbours `tails`, 0 for masked slots."""
        valid, slots, relations = inputs["valid"], inputs["slots"], inputs["relations"]
        # Most slots are masked: the rest are computed without them.
        head, tails = slots // valid.shape[1], tails.flatten()[slots]
        relation = gather(torch.cat([self.relation, self.interacts[:, 0]]), relations)
        normal = gather(self.normals(), relations)
        heads = on_hyperplane(gather(x, head), normal)
        to = on_hyperplane(gather(x, tails), normal)
        score = (to * in_pieces(torch.tanh, heads + relation)).sum(1)
        scores = score.new_full((valid.numel(),), LOWEST).index_copy(0, slots, score)
        return torch.softmax(scores.view(valid.shape), dim=1) * valid

    def normals(self) -> Tensor:
        """Normals w_r of norm 1, [R + 2, D]; the last two are of interactions."""
        return functional.normalize(torch.cat([self.normal, self.interacts[:, 1]]), dim=1)

    def global_vectors(
        self, x: Tensor, pi: Tensor, tails: Tensor, reach: list[int]
    ) -> list[Tensor]:
        """Node vectors g^0 .. g^H; g^l is that of the nodes within H - l hops.

        The first reach[d] nodes are at most d hops away.
        """
        layers = [x]
        for layer, W in enumerate(self.W, start=1):
            n = reach[self.shape.hops - layer]
            near = gather(layers[-1], tails[:n])
            mixed = layers[-1][:n] + (pi[:n].unsqueeze(2) * near).sum(1)
            layers.append(in_pieces(torch.tanh, linear(mixed, W)))
        return layers

    def refine(
        self,
        g: list[Tensor],
        kept: tuple[Tensor, Tensor],  # [n, K] nodes, and which are valid
        roots: Tensor,  # [m] nodes, distinct
        at: Tensor,  # [B], the root of each pair's tower
        c: Tensor,  # [B, D]
        left_out: Tensor,  # [B] nodes, at the other end of the pair
    ) -> Tensor:
        """Refined vectors z [B, D] of the roots.

        A root's tree of kept neighbours, with the vectors along its edges, is made once for all
        pairs of that root; a pair brings c, and so the attention.
        """
        H, K = self.shape.hops, kept[0].shape[1]
        tree, valid = [roots.unsqueeze(1)], []  # [m, K^d] nodes; [m, K^(d+1)]
        for d in range(H):
            tree.append(kept[0][tree[d]].flatten(1))
            valid.append(kept[1][tree[d]].flatten(1))
        own = [gather(g[H - d], nodes) for d, nodes in enumerate(tree)]  # [m, K^d, D]
        edges = [
            (own[d].unsqueeze(2) * own[d + 1].view(*own[d].shape[:2], K, -1)).flatten(1, 2)
            for d in range(H)
        ]
        sizes = [edge.shape[1] for edge in edges]
        scores = torch.split(by_root(c, torch.cat(edges, dim=1).mT, at), sizes, dim=1)
        alpha = []  # [B, K^d, K]
        for d in range(H):
            wanted = valid[d][at]
            if d == 0:
                wanted = wanted & (tree[1][at] != left_out.unsqueeze(1))
            wanted, score = (y.view(len(c), -1, K) for y in (wanted, scores[d]))
            alpha.append(torch.softmax(score.masked_fill(~wanted, LOWEST), dim=-1) * wanted)
        # V is applied to what pairs share: in the innermost ring to the rows that are mixed.
        z = blocks_by_root(alpha[-1], linear(own[H], self.V[-1]), at)
        for d in reversed(range(H)):
            if d < H - 1:
                mixed = (alpha[d].unsqueeze(-1) * z.view(len(c), -1, K, z.shape[2])).sum(2)
                z = linear(mixed, self.V[d])
            z = in_pieces(torch.tanh, z + gather(linear(own[d], self.V[d]), at))
        return z.squeeze(1)

    def kg_sum(
        self, backend: ModuleType, tables: Mapping[str, Tensor], batch: Batch, *, stage: str
    ) -> Tensor:
        """Loss of TransH on the drawn triples and on the batch's interactions."""
        entity, normals = tables["entity"], self.normals()
        drawn = transh_distance(
            gather(entity, batch.triple_heads),
            gather(self.relation, batch.triple_relations),
            gather(normals, batch.triple_relations),
            gather(entity, batch.triple_tails),
        )
        assert batch.users is not None
        clicked = batch.positives
        users = gather(tables["user"], batch.users[batch.groups][clicked])
        # Taken row by row, and not expanded, so that their gradients are summed in a fixed order.
        first = torch.zeros(len(users), dtype=torch.int64, device=users.device)
        relation = gather(self.interacts[:, 0], first)
        normal = gather(normals[-2:], first)
        clicks = [
            transh_distance(users, relation, normal, gather(entity, items[clicked]))
            for items in (batch.items, batch.items.roll(batch.num_pairs // 2))
        ]
        return ranking_sum(drawn) + ranking_sum(torch.cat(clicks))


# Pairs per root from which a root's pairs are one matrix product.
FEW = 4


def by_root(
    x: Tensor,  # [B, J]
    matrices: Tensor,  # [m, J, L]
    at: Tensor,  # [B]
) -> Tensor:
    """Product y_b = x_b M_{at_b} with a matrix per root, [B, L]."""
    if len(x) // FEW < len(matrices):
        return torch.bmm(x.unsqueeze(1), gather(matrices, at)).squeeze(1)
    return linear_by_relation(x, matrices, at)


def blocks_by_root(
    alpha: Tensor,  # [B, P, K]
    rows: Tensor,  # [m, P K, D]
    at: Tensor,  # [B]
) -> Tensor:
    """Sum over k of alpha_bpk rows_{at_b, p K + k}, [B, P, D]."""
    B, P, K = alpha.shape
    m, D = len(rows), rows.shape[2]
    if len(alpha) // FEW < m:
        own = gather(rows, at).view(B * P, K, D)
        return torch.bmm(alpha.view(B * P, 1, K), own).view(B, P, D)
    # One product per root with a matrix of blocks [K, D] on the diagonal.
    one = torch.eye(P, device=rows.device).view(1, P, 1, P, 1)
    diagonal = rows.view(m, P, K, 1, D) * one
    return linear_by_relation(alpha.flatten(1), diagonal.view(m, P * K, P * D), at).view(B, P, D)
