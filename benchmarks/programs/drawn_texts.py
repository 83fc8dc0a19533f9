"""Triples, interactions and links with texts as ids, drawn into folders of Parquet.

    python -m benchmarks.programs.drawn_texts FOLDER --triples 100000000

Writes FOLDER/kg (head, relation, tail), interactions (user, item) and links (item, entity), which
`ekpnet data import` and `spark_numbering.py` read, in `--files` files each. Heads are uniform and
tails heavy-tailed, of a fifth as many entities as triples; a tenth as many interactions as triples,
ten for a user, of a fifth as many items as users. A text is the hexadecimal of a number times an
odd one, so that the order of texts is none of numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import duckdb
import numpy as np

from ekpnet_fast.data.formats.engine import literal

FEWEST = 500  # triples: a user for 100, an item for five users
RELATIONS = 200
TAIL_POWER = 2.0  # tail = E * uniform ^ power, so that the first entities are the popular ones
ODD = np.uint64(0x9E3779B97F4A7C15)


def draw(folder: Path, num_triples: int, files: int, seed: int) -> None:
    """Write the three tables."""
    entities, users = num_triples // 5, num_triples // 100
    items = users // 5
    for number, (triples, clicks, links) in enumerate(
        zip(*(_cut(count, files) for count in (num_triples, num_triples // 10, items)), strict=True)
    ):
        stream = np.random.default_rng([seed, number])

        def ids(limit: int, rows: range, power: float = 1.0, stream=stream) -> np.ndarray:
            return (limit * stream.random(len(rows)) ** power).astype(np.uint64)

        kg = {
            "head": ids(entities, triples),
            "relation": ids(RELATIONS, triples),
            "tail": ids(entities, triples, TAIL_POWER),
        }
        _write(folder / "kg", number, kg)
        _write(
            folder / "interactions",
            number,
            {"user": ids(users, clicks), "item": ids(items, clicks)},
        )
        linked = np.arange(links.start, links.stop, dtype=np.uint64)
        spread = np.uint64(entities // items)
        _write(folder / "links", number, {"item": linked, "entity": linked * spread})


def _cut(count: int, files: int) -> list[range]:
    return [range(count * k // files, count * (k + 1) // files) for k in range(files)]


def _write(folder: Path, number: int, columns: dict[str, np.ndarray]) -> None:
    """Write a file of texts."""
    folder.mkdir(parents=True, exist_ok=True)
    hashes = {name: ids * ODD for name, ids in columns.items()}
    texts = ", ".join(f"to_hex({name}) AS {name}" for name in hashes)
    with duckdb.connect() as connection:
        connection.register("hashes", hashes)
        path = literal(str(folder / f"part-{number:03}.parquet"))
        connection.execute(f"COPY (SELECT {texts} FROM hashes) TO {path} (FORMAT parquet)")


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--triples", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.triples < FEWEST:
        parser.error(f"--triples: found {options.triples:,}, expected at least {FEWEST}")
    draw(options.folder, options.triples, options.files, options.seed)


if __name__ == "__main__":
    main()
