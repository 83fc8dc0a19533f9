"""Sizes and strengths of synthetic data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ekpnet_fast.data.tables import INT32_MAX
from ekpnet_fast.errors import ConfigError

__all__ = ["SyntheticConfig"]


@dataclass(frozen=True)
class SyntheticConfig:
    """Sizes and strengths of a synthetic data set.

    Attributes:
        users, items: U and I.
        positives: mean number of positives per user.
        positives_skew: sigma of the log-normal that spreads them (0: the same for everyone).
        attributes, parents: entities of the two levels; E = items + attributes + parents.
        relations: R >= 3: R - 2 from items to attributes, one from attributes to parents, one
            for noise.
        triples: T.
        item_links: mean number of attributes per item.
        noise: share of the triples that are noise; the rest, after item links and noise, links
            attributes to parents.
        degree_skew: sigma of the log-normal that spreads out-degrees.
        tail_skew: exponent s in [0, 1) of P(tail of rank k) ~ k^-s.
        sharpness: weight of the taste match, in standard deviations of the log click weight.
        popularity_skew: standard deviation of an item's popularity in the log click weight.
        parent_share: share of an attribute's variance that its parents explain (hop 2's signal).
        item_noise: share of an item's variance that the graph does not explain.
        favourites: attributes and parents a user's taste is made of, half of each.
        latent: width of the latent vectors.
        seed: of every draw.
    """

    users: int = 4000
    items: int = 6000
    positives: float = 30.0
    positives_skew: float = 0.6
    attributes: int = 120
    parents: int = 20
    relations: int = 6
    triples: int = 30_800
    item_links: float = 4.0
    noise: float = 0.2
    degree_skew: float = 0.5
    tail_skew: float = 0.4
    sharpness: float = 1.8
    popularity_skew: float = 0.65
    parent_share: float = 0.7
    item_noise: float = 0.05
    favourites: int = 3
    latent: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ConfigError where a value is out of range or the counts do not fit together."""
        for name in ("users", "items", "attributes", "parents", "favourites", "latent"):
            self._expect(name, getattr(self, name) >= 1, "at least 1")
        self._expect("items", self.items >= 2, "at least 2, one to click and one not to")
        self._expect("relations", self.relations >= 3, "at least 3")
        self._expect("positives", self.positives >= 1, "at least 1")
        for name in ("positives_skew", "degree_skew", "sharpness", "popularity_skew"):
            self._expect(name, getattr(self, name) >= 0, "at least 0")
        for name in ("noise", "tail_skew"):
            self._expect(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        for name in ("parent_share", "item_noise"):
            self._expect(name, 0 <= getattr(self, name) <= 1, "from 0 to 1")
        self._expect("latent", self.latent <= 1024, "at most 1024")
        if self.num_entities > INT32_MAX:
            raise ConfigError(
                f"synthetic: found {self.num_entities} entities, expected at most {INT32_MAX}"
            )
        item_links, parent_links, noise = self.triple_counts
        levels = self.attributes + self.parents
        for what, count, least, heads, tails in (
            ("item_links", item_links, self.items, self.items, self.attributes),
            ("triples", parent_links, self.attributes, self.attributes, self.parents),
            ("noise", noise, 0, self.items + self.attributes, levels),
        ):
            most = heads * max(1, tails // 2)
            if not least <= count <= most:
                raise ConfigError(
                    f"synthetic.{what}: found {item_links} triples from items to attributes,"
                    f" {parent_links} from attributes to parents and {noise} of noise,"
                    f" expected the number that {what} decides to be from {least} to {most}"
                )

    def _expect(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            found = getattr(self, name)
            raise ConfigError(f"synthetic.{name}: found {found}, expected {expected}")

    @property
    def num_entities(self) -> int:
        """Number of entities E."""
        return self.items + self.attributes + self.parents

    @property
    def triple_counts(self) -> tuple[int, int, int]:
        """Triples from items to attributes, from attributes to parents, and of noise."""
        noise = round(self.triples * self.noise)
        item_links = round(self.items * self.item_links)
        return item_links, self.triples - noise - item_links, noise

    @classmethod
    def movielens_1m(cls, **changes: Any) -> SyntheticConfig:
        """Counts of the paper's MovieLens-1M: 182,011 entities, 12 relations, 1,241,995 triples."""
        return cls(
            **{
                "users": 6036,
                "items": 2445,
                "positives": 62.44,
                "positives_skew": 0.9,
                "attributes": 169_566,
                "parents": 10_000,
                "relations": 12,
                "triples": 1_241_995,
                "item_links": 60.0,
                "degree_skew": 1.0,
                "tail_skew": 0.7,
                **changes,
            }
        )

    @classmethod
    def book_crossing(cls, **changes: Any) -> SyntheticConfig:
        """Counts of the public Book-Crossing: 77,903 entities, 25 relations, 151,500 triples."""
        return cls(
            **{
                "users": 17_860,
                "items": 14_967,
                "positives": 3.91,
                "positives_skew": 1.2,
                "attributes": 62_436,
                "parents": 500,
                "relations": 25,
                "triples": 151_500,
                "noise": 0.15,
                "degree_skew": 1.0,
                "tail_skew": 0.7,
                **changes,
            }
        )

    @classmethod
    def large(cls, triples: int = 100_000_000, **changes: Any) -> SyntheticConfig:
        """Huge graph under few users and items, to see what scales in T."""
        return cls(
            **{
                "users": 10_000,
                "items": 10_000,
                "attributes": triples // 8,
                "parents": triples // 80,
                "relations": 50,
                "triples": triples,
                "item_links": min(500.0, triples / 40_000),
                "degree_skew": 1.0,
                "tail_skew": 0.7,
                **changes,
            }
        )
