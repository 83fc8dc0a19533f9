"""`Recommender`: train, recommend, explain, change the graph, save; ids are the user's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ekpnet_fast.data.tables import Dataset
from ekpnet_fast.errors import DataError
from ekpnet_fast.recommender import clicked, exporting, reasons, recall, store
from ekpnet_fast.recommender import fidelity as measured
from ekpnet_fast.recommender.answers import (
    Change,
    Explanation,
    Fidelity,
    Recall,
    Recommendations,
    SimilarItem,
)
from ekpnet_fast.recommender.live import LiveGraph
from ekpnet_fast.recommender.names import Id
from ekpnet_fast.recommender.query import (
    Candidates,
    ItemFilter,
    Query,
    check_candidates,
    check_flag,
    check_ids,
    check_positive,
    items_of,
    parse_query,
)
from ekpnet_fast.recommender.state import State
from ekpnet_fast.recommender.topk import best_of, candidates_for, predict_pairs, recommend_topk

if TYPE_CHECKING:
    from ekpnet_fast.training.progress import Progress


class Recommender:
    """Recommender: a trained model with its graph, names and histories.

    Ids in and out are those of the user's files: texts, or numbers where the files hold numbers.
    Everything but `graph`, `add_clicks` and `refresh` only reads, and answers do not wait for
    changes: any number of threads may call it at the same time. A single
    answer is too little work to share: call `torch.set_num_threads(1)` in the threads that give
    answers, or each waits for the slowest of torch's threads. An error that a caller can mend is an
    `EkpnetError` that says what was found and expected.

    Made by `fit` or `load`.

    Examples:
        >>> from ekpnet_fast import Recommender, SyntheticConfig, make_synthetic
        >>> sizes = SyntheticConfig(users=60, items=80, positives=10, attributes=16, parents=4,
        ...                         triples=435)
        >>> dataset = make_synthetic(sizes)
        >>> recommender = Recommender.fit(dataset, epochs=1)
        >>> recommender
        Recommender(model='ekpnet', users=60, items=80, triples=435)
        >>> best = recommender.recommend(history=[12, 40, 7], k=3)
        >>> len(best), {item.item for item in best} & {12, 40, 7}
        (3, set())
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._changing = threading.Lock()
        self._graph = LiveGraph(lambda: self._state, self._become, self._changing, self)

    def _become(self, state: State) -> None:
        _ = state.scorer  # what follows from a change is computed by whoever makes it
        self._state = state

    def __reduce__(self) -> tuple[Callable[[Mapping[str, Any]], Recommender], tuple[Any]]:
        """Pickle, as a copy or a worker that is spawned needs it: what `save` writes, in memory."""
        return _from_packed, (store.packed(self._state),)

    def __repr__(self) -> str:
        """Text with model and sizes."""
        state = self._state
        return (
            f"Recommender(model={self.model!r}, users={len(state.users)},"
            f" items={state.num_items}, triples={self.graph.num_triples})"
        )

    # ---- made by -------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        dataset: Dataset | str | PathLike[str],
        model: str = "ekpnet",
        *,
        options: Mapping[str, Any] | None = None,
        preset: str = "default",
        epochs: int | None = None,
        seed: int = 0,
        threads: int | None = None,
        device: str = "auto",
        data_root: str | PathLike[str] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Recommender:
        """Train on a data set.

        Its examples are split as `python -m ekpnet_fast.train` does; histories are the positives of
        the train part.

        Args:
            dataset: a data set, or what `--dataset` takes: a name, or a folder.
            model: one of `ekpnet_fast.models.MODELS`.
            options: further options of `python -m ekpnet_fast.train`, such as `{"train.lr": 1e-3}`.
            preset: "default", by which options follow from the data, or "paper", by its name.
            epochs: of each stage; the model's without.
            seed: of everything drawn.
            threads: CPU threads for training; without it those of torch, but no more than CPUs
                that the process may use.
            device: "auto", "cpu" or "cuda".
            data_root: folder of data sets.
            on_progress: called after each batch and each epoch.

        Raises:
            ConfigError, DataError, TrainingError: as `python -m ekpnet_fast.train`.
        """
        from ekpnet_fast.recommender import fitting  # here, because no answer needs what trains

        given = {**(options or {}), "seed": seed, "device": device, "preset": preset}
        for name, value in (("epochs", epochs), ("threads", threads), ("data_root", data_root)):
            if value is not None:
                given[name] = value
        return cls(fitting.fit(dataset, model, given, on_progress))

    @classmethod
    def load(
        cls,
        folder: str | PathLike[str],
        *,
        data_root: str | PathLike[str] | None = None,
        device: str = "auto",
    ) -> Recommender:
        """Read a folder that `save` wrote, or that of a run (`train --output`).

        Args:
            folder: of a recommender or of a run, which need nothing else; a run without its
                `context.safetensors` refers to its data set.
            data_root: folder of that data set now, if it was moved.
            device: "auto", "cpu" or "cuda".

        Raises:
            DataError: neither, damaged files, or data that are not those of training.
            ConfigError: a device that cannot be used.
        """
        root = None if data_root is None else Path(data_root)
        return cls(store.load(Path(folder), root, device))

    def save(self, folder: str | PathLike[str], *, overwrite: bool = False) -> None:
        """Write a folder that `load` reads without the data set, with the graph as it is now.

        Raises:
            ConfigError: the folder holds something and `overwrite` is not set, or anything but a
                recommender, or it cannot be written.

        Examples:
            >>> import tempfile
            >>> folder = tempfile.mkdtemp()
            >>> recommender.save(folder)
            >>> Recommender.load(folder).recommend(user=3) == recommender.recommend(user=3)
            True
        """
        store.save(self._state, Path(folder), overwrite=overwrite)

    # ---- contents ------------------------------------------------------------------------------

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._state.model.name

    @property
    def state(self) -> State:
        """State as it is now. Immutable: a change of the graph makes a new one."""
        return self._state

    def snapshot(self) -> Recommender:
        """Copy with the graph as it is now, for several queries about one graph.

        Later changes of the graph do not reach it, nor do changes of its own graph reach this one.
        Weights and tables are shared, so it costs nothing.

        Examples:
            >>> now = recommender.snapshot()
            >>> now.graph.add_items({"new": [("parent", 96)]}).items
            1
            >>> len(now.item_ids()) - len(recommender.item_ids())
            1
        """
        return Recommender(self._state)

    @property
    def graph(self) -> LiveGraph:
        """Graph, which may be changed: see `LiveGraph`.

        Examples:
            >>> recommender.graph.num_triples
            435
        """
        return self._graph

    def user_ids(self) -> list[Id]:
        """Ids of the users, in their order.

        Examples:
            >>> recommender.user_ids()[:3]
            [0, 1, 2]
        """
        users = self._state.users
        return [users.id(number) for number in range(len(users))]

    def item_ids(self) -> list[Id]:
        """Ids of the catalogue, in its order; items that were added later are last."""
        items = self._state.items
        return [items.id(number) for number in range(len(items))]

    def item_name(self, item: Id) -> str | None:
        """Name of an item, None where the data set has none.

        Raises:
            DataError: no such item.
        """
        state = self._state
        return state.item_name(state.items.number(item))

    def history(self, user: Id) -> list[Id]:
        """History of a user: the items whose clicks training saw, and those that were added.

        Raises:
            DataError: no such user.
        """
        state = self._state
        query = state.of_users([state.users.number(user)])
        return [state.items.id(number) for number in state.items_of(query.entities)]

    # ---- clicks ----------------------------------------------------------------------------------

    def add_clicks(
        self, clicks: Mapping[Id, Iterable[Id]], names: Mapping[Id, str] | None = None
    ) -> Change:
        """Add clicks, which count from the next answer on; nothing is trained.

        They lengthen the histories that answers follow from, and the items are left out of lists.
        What was counted over all users stays as it was until `refresh`. A click that is known
        already changes nothing. Changes wait for each other.

        Args:
            clicks: items by user; users that are not known are new ones.
            names: of new users.

        Returns:
            What was added, and what stays as fitted until `refresh`.

        Raises:
            DataError: an unknown item, or a user without items; then nothing is added.
            ConfigError: a model that scores users by what it learned of them.

        Examples:
            >>> now = recommender.snapshot()
            >>> change = now.add_clicks({"zoe": [12, 40], 3: [7]})
            >>> change.users, change.clicks
            (1, 3)
            >>> now.history("zoe")
            [12, 40]
            >>> len(now.recommend(user="zoe", k=3))
            3
        """
        with self._changing:
            state, change = clicked.with_clicks(self._state, clicks, names)
            self._become(state)
        return change

    def refresh(self) -> Change:
        """Fit anew what is fitted to the graph and to all clicks, without deep training.

        Of `linear` and `ekpnet_plus`: counts, co-clicks, weights of the graph's pairs, projections
        and curves, by the graph, the catalogue and the histories as they are. Curves are fitted to
        all clicks and to items drawn by the run's seed from those that the user has not touched,
        as many in proportion as training had. Takes seconds, while answers go on with the state as
        it was.

        Raises:
            ConfigError: a model of which nothing is fitted so.
            TrainingError: no item was clicked twice.
        """
        from ekpnet_fast.recommender import refreshing  # here, because no answer needs what fits

        with self._changing:
            state, change = refreshing.refreshed(self._state)
            self._become(state)
        return change

    # ---- recommending --------------------------------------------------------------------------

    def recommend(
        self,
        user: Id | None = None,
        history: Iterable[Id] | None = None,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        filter_items: ItemFilter | None = None,
        candidates: Candidates = None,
    ) -> Recommendations:
        """Recommend the best items to a user, or to a new one by history alone.

        A history is scored as it is: nothing is trained, its ripple sets are drawn on the spot by
        the run's seed. Order and repeats in it play no part. Ties go by the catalogue's order.

        Args:
            user: a known user; give either this or `history`.
            history: items that a new user clicked.
            k: length of the list.
            exclude_seen: leave out the history, and of a user all that the data set says was
                touched, in whatever part of the split.
            filter_items: the only items to choose from, or a predicate of an item; all of them get
                exact scores.
            candidates: how many items get exact scores, those that a first stage puts forward;
                "all", or None: all of a catalogue of up to 100,000 items, 20,000 of a larger one.
                A model that scores by more than vectors of items scores all in any case.

        Raises:
            DataError: an unknown id, neither or both of user and history, an empty history, or a
                user without one.
            ConfigError: `k` or `candidates` below 1, or a history for a model of known users.

        Examples:
            >>> best = recommender.recommend(user=3, k=5)
            >>> len(best), best[0].score >= best[4].score
            (5, True)
            >>> some = recommender.recommend(history=[1, 2], filter_items=[2, 4, 8])
            >>> sorted(found.item for found in some)
            [4, 8]
            >>> recommender.recommend(user="1000")
            Traceback (most recent call last):
            ekpnet_fast.errors.DataError: user: found '1000', expected one of 60 ids such as ...
        """
        state = self._state
        query = parse_query(state, user, history)
        chosen, candidates = items_of(state, filter_items), check_candidates(candidates)
        known = check_flag(exclude_seen, "exclude_seen")
        return recommend_topk([query], check_positive(k), known, chosen, candidates)[0]

    def recommend_batch(
        self,
        users: Iterable[Id] | None = None,
        histories: Iterable[Iterable[Id]] | None = None,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        filter_items: ItemFilter | None = None,
        candidates: Candidates = None,
    ) -> list[Recommendations]:
        """Recommend to many, in their order; to all users with a history where none are named.

        Raises:
            DataError, ConfigError: as `recommend`.

        Examples:
            >>> [best.user for best in recommender.recommend_batch(users=[5, 3], k=2)]
            [5, 3]
            >>> len(recommender.recommend_batch(histories=[[1], [2, 3]], k=2))
            2
        """
        state = self._state
        if users is not None and histories is not None:
            raise DataError("found users and histories, expected one of the two")
        if histories is not None:
            several = check_ids(histories, "histories")
            queries = [parse_query(state, None, history) for history in several]
        elif users is not None:
            queries = [parse_query(state, user, None) for user in check_ids(users, "users")]
        else:
            some = np.flatnonzero(np.diff(state.history_indptr.numpy()))
            queries = [Query(state, user=number) for number in some.tolist()]
        chosen, k = items_of(state, filter_items), check_positive(k)
        candidates = check_candidates(candidates)
        known = check_flag(exclude_seen, "exclude_seen")
        found: list[Recommendations] = []
        step = state.scorer.groups_at_once(state.num_items)
        for first in range(0, len(queries), step):
            block = queries[first : first + step]
            found += recommend_topk(block, k, known, chosen, candidates)
        return found

    def prepare(self, candidates: Candidates = None) -> None:
        """Build the index that lists by so many candidates need, if there is none that serves.

        Else the first such list does, which waits for it. `save` keeps it.

        Raises:
            ConfigError: `candidates` below 1.

        Examples:
            >>> recommender.prepare(candidates=20)
        """
        state = self._state
        count = candidates_for(state, check_candidates(candidates))
        if count is not None:
            state.index.of(state, count)

    def recall(
        self,
        candidates: Candidates = None,
        users: int | Iterable[Id] = 100,
        *,
        k: int = 10,
        seed: int = 0,
    ) -> Recall:
        """Recall of lists by candidates: how much of the exact lists they hold, and what they take.

        Args:
            candidates: as `recommend` takes it.
            users: so many, drawn by the seed, or these.
            k: length of the lists.
            seed: of the users.

        Raises:
            DataError: unknown ids, or users without a history.
            ConfigError: a number below 1, or lists that are exact anyway.

        Examples:
            >>> found = recommender.recall(candidates=30, users=10, k=5)
            >>> found.mean > 0.5, found.items
            (True, 80)
        """
        state = self._state
        if isinstance(users, Iterable):
            queries = [parse_query(state, user, None) for user in check_ids(users, "users")]
        else:
            queries = self._drawn(check_positive(users, "users"), seed)
        if not queries:
            raise DataError("users: found none, expected at least one with a history")
        return recall.measure(queries, check_positive(k), check_candidates(candidates))

    def _drawn(self, count: int, seed: int) -> list[Query]:
        """Queries of users with a history, drawn by a seed."""
        some = np.flatnonzero(np.diff(self._state.history_indptr.numpy()))
        drawn = np.random.default_rng(seed).permutation(some)[:count].tolist()
        return [Query(self._state, user=number) for number in drawn]

    def predict(self, users: Sequence[Id], items: Sequence[Id]) -> NDArray[np.float32]:
        """Predict the probabilities [n] that users[i] clicks items[i].

        Raises:
            DataError: unknown ids, a user without history, or sequences of different lengths.

        Examples:
            >>> recommender.predict([3, 3, 8], [0, 1, 0]).shape
            (3,)
        """
        state = self._state
        users, items = list(check_ids(users, "users")), list(check_ids(items, "items"))
        if len(users) != len(items):
            raise DataError(f"found {len(users)} users and {len(items)} items, expected as many")
        numbers = np.array([parse_query(state, user, None).user for user in users], dtype=np.int64)
        entities = state.catalogue.numpy()[[state.items.number(item) for item in items]]
        return predict_pairs(state, numbers, entities)

    def similar_items(self, item: Id, k: int = 10) -> list[SimilarItem]:
        """Items whose vectors point most nearly the same way, without the item itself.

        Raises:
            DataError: no such item.
            ConfigError: `k` below 1, or a model without vectors of items.

        Examples:
            >>> [found.item == 7 for found in recommender.similar_items(7, k=2)]
            [False, False]
        """
        state, k = self._state, check_positive(k)
        number = state.items.number(item)
        directions = state.item_directions
        cosines = (directions @ directions[number]).unsqueeze(0)
        (best,), values = best_of(cosines, [np.array([number], dtype=np.int32)], k)
        return [
            SimilarItem(state.items.id(i), state.item_name(i), cosine)
            for i, cosine in zip(best, values[0].tolist(), strict=False)
        ]

    # ---- explaining ----------------------------------------------------------------------------

    def explain(
        self,
        user: Id | None = None,
        item: Id | None = None,
        *,
        history: Iterable[Id] | None = None,
        top: int = 5,
        hops: bool = False,
    ) -> Explanation:
        """Explain an item's score by paths of the graph, and by all parts of a wide part's logit.

        The paths are those of the ripple sets that the score is computed from. They are ranked by
        effect: by how much the logit falls where the path's last triple is masked. Of `linear` and
        `ekpnet_plus` the answer tells the logit as a sum, too: see `Explanation`.

        Args:
            user: a user that training saw; give either this or `history`.
            item: the item.
            history: items that a new user clicked.
            top: paths, and parts of the logit, at most.
            hops: whether the answer has the whole ripple set, too, also the triples that speak
                against the item.

        Raises:
            DataError, ConfigError: as `recommend`.

        Examples:
            >>> explanation = recommender.explain(history=[12, 40], item=7, top=2)
            >>> [reason.steps[0].start.id in (12, 40) for reason in explanation.reasons]
            [True, True]
            >>> whole = recommender.explain(history=[12, 40], item=7, hops=True)
            >>> sum(len(hop) for hop in whole.hops) == whole.paths
            True
        """
        state = self._state
        if item is None:
            raise DataError("item: found None, expected the item to explain")
        query = parse_query(state, user, history)
        number, top = state.items.number(item), check_positive(top, "top")
        return reasons.explain(query, number, top=top, hops=hops)

    def fidelity(
        self,
        users: Iterable[Id] | None = None,
        *,
        items: int = 3,
        masked: int = 5,
        draws: int = 10,
        seed: int = 0,
    ) -> Fidelity:
        """Fidelity of the reasons: whether the scores rest on them, measured by masking.

        Args:
            users: of the recommendations that are measured; 100 drawn by the seed without.
            items: of each user, the best so many.
            masked: reasons that are masked at once.
            draws: of random ones, for each pair of user and item.
            seed: of the users and the random reasons.

        Raises:
            DataError, ConfigError: as `recommend`; a model that has no reasons.

        Examples:
            >>> found = recommender.fidelity(items=1, masked=3)
            >>> found.top > found.random
            True
        """
        state = self._state
        if users is None:
            queries = self._drawn(100, seed)
        else:
            queries = [parse_query(state, user, None) for user in check_ids(users, "users")]
        k = check_positive(items, "items")
        return measured.measure(
            [(query, recommend_topk([query], k, True, None, "all")[0]) for query in queries],
            masked=check_positive(masked, "masked"),
            draws=check_positive(draws, "draws"),
            seed=seed,
        )

    # ---- elsewhere -----------------------------------------------------------------------------

    def export(self, path: str | PathLike[str]) -> float:
        """Write the scoring model as ONNX, in plain operators, with the graph's tables as now.

        Inputs are those of `scoring_inputs`; the output is "logits" [B]. Of the EKPNet family
        only; needs the extra `export`.

        Args:
            path: the file.

        Returns:
            The largest difference of a logit from the native one, as onnxruntime computes it for
            one user and all items.

        Raises:
            ConfigError: another model, packages that are missing, or a file that cannot be written.
        """
        state = self._state
        exporting.check(state)
        return exporting.export_onnx(state, state.of_histories([np.array([0])]), Path(path))

    def scoring_inputs(
        self, user: Id | None = None, history: Iterable[Id] | None = None
    ) -> dict[str, NDArray[np.int32]]:
        """Inputs of an exported model: the ripple sets of a user or a history, and all items.

        Returns:
            heads, relations, tails [1, H, M] and counts [1, H]; items [I], the entities of
            `item_ids()`, of which any may be left out.

        Raises:
            DataError, ConfigError: as `recommend`.

        Examples:
            >>> inputs = recommender.scoring_inputs(history=[12, 40])
            >>> {name: array.shape for name, array in inputs.items()}["items"]
            (80,)
        """
        query = parse_query(self._state, user, history)
        exporting.check(query.state)
        return exporting.scoring_inputs(query.state, query.batch())


def _from_packed(content: Mapping[str, Any]) -> Recommender:
    return Recommender(store.unpacked(content))
