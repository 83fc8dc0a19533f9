"""How the propagation is laid over a GPU: enough blocks, and memory that a block can have."""

from __future__ import annotations

import subprocess
from typing import NamedTuple

import pytest

SMALL, MOST = 99 * 1024, 163 * 1024  # bytes of a block on sm_86, sm_89 and sm_120; on sm_80


class Plan(NamedTuple):
    threads: int
    tile_rows: int
    pairs: int
    tiles: int
    shared_bytes: int
    items: int
    teams: int


@pytest.fixture
def plan(emulated):
    program = emulated.path.with_name("attention_plan")

    def of(groups, pairs, *, hops=2, slots=32, width=16, value_bytes=4, way="backward"):
        shape = (groups, pairs, hops, slots, width, value_bytes)
        words = [str(program), way, *map(str, shape)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return Plan(*map(int, done.stdout.split()))

    return of


@pytest.mark.parametrize("way", ["forward", "backward"])
@pytest.mark.parametrize("groups", [64, 129, 400])
def test_a_batch_fills_the_chip(plan, groups, way):
    """132 multiprocessors of an H100, and two blocks or more for each at the usual sizes."""
    found = plan(groups, 4096, way=way)
    assert 4096 // found.pairs >= 256 and found.teams == found.items
    assert found.threads >= 64 and found.tiles == 4
    assert 4 * found.shared_bytes <= MOST  # so many blocks have room, as registers allow


def test_large_batches_have_larger_pieces(plan):
    sizes = [plan(pairs // 64, pairs).pairs for pairs in (4096, 1 << 14, 1 << 15, 1 << 17)]
    assert sizes == [16, 32, 32, 32]  # 64 pairs would leave an A100 one block at a time
    assert plan(2048, 1 << 17, way="forward").pairs == 64


def test_small_groups_have_few_threads(plan):
    assert [plan(1024, pairs).threads for pairs in (1024, 8192, 16384)] == [32, 64, 128]
    assert [plan(1024, pairs).pairs for pairs in (1024, 8192, 16384)] == [4, 8, 16]


def test_sums_of_wide_weights_are_few(plan):
    assert plan(4096, 65536, width=64).teams == 256
    assert plan(4096, 65536, width=128).teams == 128


@pytest.mark.parametrize("hops", [1, 2, 3, 4])
def test_every_shape_has_room(plan, hops):
    for slots in (1, 7, 32, 64):
        for width in (4, 13, 16, 32, 64, 128):
            found = plan(64, 4096, hops=hops, slots=slots, width=width)
            assert found.shared_bytes <= (MOST if width == 128 else SMALL), (slots, width, found)
            assert found.tiles in (1, 2, 2 * hops)
