"""Options of the wide part's signals, and the names of their features."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GRAPH_REGRESSION", "LOG_EPS", "SignalOptions", "feature_names", "source_names"]

GRAPH_REGRESSION = "graph regression"
LOG_EPS = {"co-click": 1e-4, "KG match": 1e-2}  # added before the logarithm


@dataclass(frozen=True)
class SignalOptions:
    """Options of the affinities.

    Attributes:
        neighbours: strongest neighbours that an item keeps in each affinity; 0 for as many as all
            items have room for in 64 MiB, 64 at least.
        kg_click_kg: affinity by the graph, by clicks, and by the graph again.
        low_pass: ranks of projections of the history on what most clicks share; at most a quarter
            of the items, and of the users with a click.
        joint_spectral: ranks of projections on what clicks and graph share; at most a quarter of
            the items, and of the users and pairs together.
        graph_regression: rank of the items' vectors in the graph that all clicks are regressed on,
            2 or more, at most half as many as there are (relation, tail) pairs; 0 leaves it out. If
            not set, only where clicks are predicted.
        ease: regularisation of EASE^R, for few items with many clicks; 0 leaves it out.
        five_hop: whether 5-hop co-click is a feature beside the 3-hop one.
        knn: similarity of items by their clicks, of popular ones larger than the cosine.
        ridge: regularisation of the regression of each item on those most clicked with it, which
            counts only once what several of them say; 0 leaves it out.
        joint_ridge: such a regression on clicks and graph at once, for which items of the same
            triples are as if so many had clicked both; 0 leaves it out. If not set, only where
            lists are measured.
        p3alpha: chance that a walk from the clicked item to one of its users, and on to a click of
            theirs, ends at the item. If not set, only where lists are measured.
        user_knn: users near a history whose clicks speak for an item, each as much as they are like
            the history; 0 leaves it out. If not set, 1000 where lists are measured.
        relations: match in the graph by each of so many relations, those that most items have.
    """

    neighbours: int = 0
    kg_click_kg: bool = True
    low_pass: tuple[int, ...] = (32, 128)
    joint_spectral: tuple[int, ...] = (32, 128)
    graph_regression: int = 256
    ease: float = 0.0
    five_hop: bool = True
    knn: bool = True
    ridge: float = 100.0
    joint_ridge: float = 0.0
    p3alpha: bool = False
    user_knn: int = 0
    relations: int = 4

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the affinities, in the order of the features."""
        return (
            "co-click",
            "KG match",
            *(["KG-click-KG"] if self.kg_click_kg else []),
            *(f"low-pass {rank}" for rank in self.low_pass),
            *(f"joint {rank}" for rank in self.joint_spectral),
            *([GRAPH_REGRESSION] if self.graph_regression else []),
            *(["EASE"] if self.ease > 0 else []),
            *(["far co-click"] if self.five_hop else []),
            *(["item kNN"] if self.knn else []),
            *(["ridge"] if self.ridge > 0 else []),
            *(["joint ridge"] if self.joint_ridge > 0 else []),
            *(["P3alpha"] if self.p3alpha else []),
            *(["user kNN"] if self.user_knn else []),
            *(f"KG match by relation of rank {rank}" for rank in range(1, self.relations + 1)),
        )


def feature_names(options: SignalOptions) -> tuple[str, ...]:
    """Names of the rows of `Affinities.features`."""
    return (
        "popularity",
        "KG neighbours' clicks",
        *LOG_EPS,
        *(
            name if name == GRAPH_REGRESSION else f"{name} over the user's mean"
            for name in options.names
        ),
    )


def source_names(options: SignalOptions) -> dict[str, int]:
    """Place of each source among those of `Affinities`."""
    names = [
        "co-click",
        "KG match",
        *(["KG-click-KG"] if options.kg_click_kg else []),
        *(["low-pass"] if options.low_pass else []),
        *(["joint"] if options.joint_spectral else []),
        *([GRAPH_REGRESSION] if options.graph_regression else []),
        *(["EASE"] if options.ease > 0 else []),
        *(["far co-click"] if options.five_hop else []),
        *(["item kNN"] if options.knn else []),
        *(["ridge"] if options.ridge > 0 else []),
        *(["joint ridge"] if options.joint_ridge > 0 else []),
        *(["P3alpha"] if options.p3alpha else []),
        *(["user kNN"] if options.user_knn else []),
        *(f"KG match by relation of rank {rank}" for rank in range(1, options.relations + 1)),
    ]
    return {name: place for place, name in enumerate(names)}
