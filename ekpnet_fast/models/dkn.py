"""DKN (Wang et al., Deep Knowledge-Aware Network for News Recommendation, WWW 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor, nn

from ekpnet_fast import ops
from ekpnet_fast.config import RunConfig
from ekpnet_fast.data import Dataset
from ekpnet_fast.errors import ConfigError, DataError
from ekpnet_fast.models.base import Model, initial_rows, xavier
from ekpnet_fast.models.rules import Rules, batch_size, by_density, if_dense
from ekpnet_fast.models.titles import encode
from ekpnet_fast.ops.deterministic import gather, in_pieces, linear, linear_by_relation
from ekpnet_fast.sampling.pairs import Inputs, PairRequest, Pairs, TrainContext


@dataclass(frozen=True)
class DKNOptions:
    """Options of DKN alone.

    Attributes:
        words: of a title, the first so many, 1 to 64.
        widths: there are filters of 1, 2, ... so many words, 1 to 8.
        filters: of each width, 1 to 256.
        history: of a user's train positives, so many are attended to, 1 to 256; of more, each
            epoch draws its own, uniformly and by the seed, and evaluation those of epoch 0.
        neighbors: of an entity, so many make its context, 1 to 256, drawn in the same way.
        hidden: width of the hidden layer of the attention and of the prediction, 1 to 1024.
    """

    words: int = 10
    widths: int = 3
    filters: int = 16
    history: int = 16
    neighbors: int = 8
    hidden: int = 16


LIMITS = {
    "words": 64,
    "widths": 8,
    "filters": 256,
    "history": 256,
    "neighbors": 256,
    "hidden": 1024,
}


class DKN(Model):
    """DKN, y = sigma(MLP([user || v_target])), items v by a CNN over words and knowledge (KCNN).

        channels of word k:  w_k,  tanh(M e + b),  tanh(M c + b)    (eq. 8)
        v = max over k of relu(filter * channels at k .. k + width - 1), all filters (eq. 9-11)
        s_j = softmax_j(MLP([v_j || v_target])) (eq. 12),  user = sum_j s_j v_j (eq. 13)

    e is the item's entity and c its context, the mean of the entity's neighbours. Departures: words
    are not linked to entities of their own, so that the item's serves every one of them; words and
    entities are learned from clicks alone, not trained on texts and triples before; a filter
    reaches behind the title's end, where there is nothing. The target is left out of the history in
    training, because no target of another split is in it; a history of nothing gives user 0.

    An item's v is computed once per mini-batch, and so is its half of the attention's first layer.

    Attributes:
        word: [V, D]; see `titles.encode`.
        entity: [E, D].
        M, b: [D, D], [D].
        word_filters: [D, S F], S = 1 + 2 + ... + widths: for each word under each filter, D -> F.
        knowledge_filters: [2 D, S F], the same for the channels of entity and context.
        filter_bias: [widths F] = [K].
        A_history, A_target, a_1, a_2: [K, A], [K, A], [A], [A, 1], A = hidden; an output bias of
            the attention would cancel in its softmax.
        P_1, p_1, P_2, p_2: [2 K, A], [A], [A, 1], [1].
    """

    name = "dkn"
    summary = "DKN: a CNN over words of titles with entities, attention over the history"
    Options = DKNOptions
    new_users = True
    history = True
    tables: ClassVar[Mapping[str, str]] = {"word": "word", "entity": "entity"}
    input_spaces: ClassVar[Mapping[str, str]] = {
        "words": "word",
        "centres": "entity",
        "neighbors": "entity",
    }
    rules: ClassVar[Rules] = {
        "shape.width": if_dense(16, 8),
        "dkn.filters": if_dense(16, 32),
        "train.epochs": if_dense(20, 12),
        "train.batch_size": batch_size,
        "train.lr": by_density(5e-3, 7e-3),
        "train.lambda3": by_density(0.1, 0.14),
    }

    needs = (
        "item_names.txt (item, tab, title) beside its files, RecBole's .item, or --items of an"
        " import"
    )

    @classmethod
    def lacking(cls, dataset: Dataset) -> str | None:
        """Name the titles, where there are none."""
        return "titles" if dataset.item_names is None else None

    def __init__(self, config: RunConfig, source: TrainContext) -> None:
        super().__init__(config, source)
        if source.item_names is None:
            raise DataError(
                "--model dkn reads the words of items: found a data set without titles, expected"
                f" {self.needs}"
            )
        options, D, draw = self.options, self.shape.width, self.draw
        # Plain attributes: `inputs` reads them on the CPU, wherever the model is.
        self.title_words, self.title_counts, vocabulary = encode(source.item_names, options.words)
        init, F = self.shape.init, options.filters
        self.add_table("word", initial_rows((len(vocabulary), D), init, draw))
        self.add_table("entity", initial_rows((source.graph.num_entities, D), init, draw))
        self.M = nn.Parameter(xavier((D, D), D, D, draw))
        self.b = nn.Parameter(torch.zeros(D))
        S, K, A = sum(range(options.widths + 1)), options.widths * F, options.hidden
        self.word_filters = nn.Parameter(xavier((D, S * F), 3 * D, F, draw))
        self.knowledge_filters = nn.Parameter(xavier((2 * D, S * F), 3 * D, F, draw))
        self.filter_bias = nn.Parameter(torch.zeros(K))
        self.A_history = nn.Parameter(xavier((K, A), 2 * K, A, draw))
        self.A_target = nn.Parameter(xavier((K, A), 2 * K, A, draw))
        self.a_1 = nn.Parameter(torch.zeros(A))
        self.a_2 = nn.Parameter(xavier((A, 1), A, 1, draw))
        self.P_1 = nn.Parameter(xavier((2 * K, A), 2 * K, A, draw))
        self.p_1 = nn.Parameter(torch.zeros(A))
        self.P_2 = nn.Parameter(xavier((A, 1), A, 1, draw))
        self.p_2 = nn.Parameter(torch.zeros(1))

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """Check the sizes."""
        for option, high in LIMITS.items():
            value = getattr(config.options, option)
            if not 1 <= value <= high:
                raise ConfigError(f"--dkn.{option} is {value}, expected 1 to {high}")

    def inputs(self, request: PairRequest) -> Inputs:
        """Distinct items of the pairs and histories, n, and their positions.

        centres [n], words [n, N], lengths [n], neighbors [n, X], neighbor_counts [n]: of the items.
        targets [B], history [G, P]: positions among them. history_counts [G]: valid slots.
        """
        source, options = self.source, self.options
        histories, ids = self.histories_of(request)
        # A history is a node whose triples lead to its items.
        _, history, history_counts = ops.sample_neighbors(
            histories.indptr,
            torch.zeros_like(histories.items, dtype=torch.uint8),
            histories.items,
            ids,
            options.history,
            seed=source.seed,
            epoch=request.epoch,
        )
        masked = torch.arange(options.history) >= history_counts.unsqueeze(1)
        centres, at = ops.localize(torch.cat([request.items, history[~masked]]))
        B = len(request.items)
        slots = torch.zeros_like(history).masked_scatter_(~masked, at[B:])
        graph = source.graph
        _, neighbors, neighbor_counts = ops.sample_neighbors(
            graph.indptr,
            graph.relations,
            graph.tails,
            centres,
            options.neighbors,
            seed=source.seed,
            epoch=request.epoch,
        )
        # In the masked slots the entity itself, so that they touch no row of another.
        unused = torch.arange(options.neighbors) >= neighbor_counts.unsqueeze(1)
        neighbors = torch.where(unused, centres.unsqueeze(1), neighbors)
        return {
            "centres": centres,
            "words": self.title_words[centres],
            "lengths": self.title_counts[centres],
            "neighbors": neighbors,
            "neighbor_counts": neighbor_counts,
            "targets": at[:B],
            "history": slots,
            "history_counts": history_counts,
        }

    def items(self, tables: Mapping[str, Tensor], inputs: Inputs) -> Tensor:
        """Vectors v [n, K] of the distinct items, by KCNN."""
        options, entity = self.options, tables["entity"]
        words, lengths = inputs["words"], inputs["lengths"]
        n, N = words.shape
        F = options.filters
        valid = _first(inputs["neighbor_counts"], options.neighbors)
        near = (gather(entity, inputs["neighbors"]) * valid).sum(1)
        context = near / inputs["neighbor_counts"].clamp(min=1).unsqueeze(1)
        both = torch.stack([gather(entity, inputs["centres"]), context], dim=1)  # [n, 2, D]
        knowledge = in_pieces(torch.tanh, linear(both, self.M, self.b)).flatten(1)
        in_title = _first(lengths, N)  # [n, N, 1]
        under = linear(gather(tables["word"], words), self.word_filters)
        # A filter's bias comes with its first word, which is in the title wherever it counts.
        bias = torch.zeros_like(self.knowledge_filters[0]).view(-1, F)
        starts = torch.arange(options.widths, device=bias.device).cumsum(0)
        bias = bias.index_copy(0, starts, self.filter_bias.view(-1, F)).flatten()
        under = (under + linear(knowledge, self.knowledge_filters, bias).unsqueeze(1)) * in_title
        # What each word gives to each filter at each offset, [n, N + widths - 1, S, F].
        under = nn.functional.pad(under.view(n, N, -1, F), (0, 0, 0, 0, 0, options.widths - 1))
        found, first = [], 0
        for width in range(1, options.widths + 1):
            at_word = [under[:, k : k + N, first + k] for k in range(width)]
            found.append(torch.stack(at_word).sum(0))
            first += width
        return (torch.relu(torch.cat(found, dim=2)) * in_title).amax(1)

    def logits(
        self, backend: ModuleType, tables: Mapping[str, Tensor], pairs: Pairs, *, stage: str
    ) -> Tensor:
        """Logits [B]."""
        inputs, groups = pairs.inputs, pairs.groups
        v = self.items(tables, inputs)  # [n, K]
        targets, history = inputs["targets"], inputs["history"]
        A, P = self.options.hidden, self.options.history
        of_history = gather(linear(v, self.A_history, self.a_1), history).flatten(1)  # [G, P A]
        of_target = gather(linear(v, self.A_target), targets).unsqueeze(1)
        hidden = torch.relu(gather(of_history, groups).view(-1, P, A) + of_target)  # [B, P, A]
        score = linear(hidden, self.a_2).squeeze(2)
        left_out = ~_first(inputs["history_counts"], P).squeeze(2)[groups]
        left_out = left_out | (history[groups] == targets.unsqueeze(1))
        weights = _softmax(score, left_out)
        user = linear_by_relation(weights, gather(v, history), groups)
        x = torch.cat([user, gather(v, targets)], dim=1)
        x = torch.relu(linear(x, self.P_1, self.p_1))
        return linear(x, self.P_2, self.p_2).squeeze(1)


def _first(counts: Tensor, size: int) -> Tensor:
    """Mask [n, size, 1], True in the first counts [n] places."""
    return (torch.arange(size, device=counts.device) < counts.unsqueeze(1)).unsqueeze(2)


def _softmax(
    score: Tensor,  # [B, P]
    left_out: Tensor,  # [B, P] bool
) -> Tensor:
    """Softmax [B, P] over the slots not left out; 0 where nothing is left."""
    # The least finite number and not infinity, which would give NaN in an empty row.
    kept = score.masked_fill(left_out, torch.finfo(score.dtype).min)
    return torch.softmax(kept, dim=1).masked_fill(left_out, 0.0)
