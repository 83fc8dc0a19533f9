"""Which ratings are positives where nobody says it: by what they are, not by a name."""

from __future__ import annotations

import numpy as np
import pytest

from ekpnet_fast.data import load_dataset
from ekpnet_fast.data.formats.stars import default_threshold
from ekpnet_fast.data.importing.importer import import_bounded_dataset, import_dataset

SCALES = {
    "whole stars": ([1, 3, 4, 5, 2], 4),
    "half stars": ([0.5, 3.5, 5], 4),
    "none given is 0": ([0, 4, 5], 4),
    "only liked ones": ([4, 5, 5], None),
    "no five": ([1, 2, 4], None),
    "ten": ([0, 5, 10], None),
    "counts": ([1, 250, 5], None),
    "counts up to 5": ([1, 1, 2, 5], 4),  # taken for stars: nothing tells them apart
    "averages": ([1, 3.7, 5], None),
    "thumbs": ([0, 1, 1], 1),
    "thumbs, down is -1": ([-1, 1, 1], 1),
    "thumbs, none is 0": ([-1, 0, 1], 1),
    "only thumbs up": ([1, 1], None),
    "only thumbs down": ([-1, -1], None),
    "shares": ([0, 0.5, 1], None),
    "below 0": ([-1, 4, 5], None),
    "ten, unrated is -1": ([-1, 1, 10], None),
    "none": ([], None),
}


RULES = {
    None: "every interaction",
    4: "rating >= 4 (taken for stars: those from 4 on are clicks; --threshold 0 keeps all)",
    1: "rating >= 1 (taken for likes and dislikes: those from 1 on are clicks; --threshold -1"
    " keeps all)",
}


@pytest.mark.parametrize(("ratings", "threshold"), SCALES.values(), ids=SCALES.keys())
def test_threshold_follows_from_the_ratings(ratings, threshold):
    assert default_threshold(np.array(ratings, dtype=np.float64)) == threshold
    assert default_threshold(None) is None


@pytest.mark.parametrize(
    ("ratings", "threshold"),
    [
        ([5, 3, 4, 1, 2, 5] * 5, 4),
        ([50, 3, 4, 1, 2, 5] * 5, None),
        ([-1, 1, 1, 0, 1, -1] * 5, 1),
    ],
)
def test_every_reader_takes_the_same(ratings, threshold, tmp_path):
    """A folder of RecBole's by any name, an import, and one that is bounded in memory."""
    folder = tmp_path / "anything"
    folder.mkdir()
    rows = [(f"u{i % 5}", f"i{i}", rating) for i, rating in enumerate(ratings)]
    lines = ["\t".join(map(str, row)) for row in rows]
    header = "user_id:token\titem_id:token\trating:float"
    (folder / "any.inter").write_text("\n".join([header, *lines]) + "\n")
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["user,item,stars", *(",".join(map(str, r)) for r in rows)]) + "\n")
    given = {"interactions": table, "columns": {"rating": "stars"}, "force": True}
    read = [
        load_dataset(str(folder)),
        import_dataset(tmp_path / "one", **given).dataset,
    ]
    import_bounded_dataset(tmp_path / "two", "1GB", **given)
    read.append(load_dataset(str(tmp_path / "two")))
    wanted = {row[:2] for row in rows if threshold is None or row[2] >= threshold}
    for data in read:
        clicks = data.interactions
        assert clicks.threshold == threshold
        pairs = zip(clicks.users, clicks.items, clicks.positive, strict=True)
        found = {(data.user_ids[u], data.item_ids[i]) for u, i, positive in pairs if positive}
        assert found == wanted
        assert data.notes[0] == f"positives: {RULES[threshold]}"
