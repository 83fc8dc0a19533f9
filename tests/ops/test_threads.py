"""Threads of the ops: a team of their own, which neither waits for others' nor uses OpenMP's."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from ekpnet_fast import ops
from ekpnet_fast.ops.threads import (
    beside,
    beside_ops,
    num_threads,
    share,
    torch_on_one_thread,
)

ROOT = Path(__file__).parents[2]

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def run(script: str, **environment: str) -> str:
    """What a script prints, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_torch_on_one_thread(threads):
    threads(3)
    with torch_on_one_thread() as number:
        assert (number, num_threads(), torch.get_num_threads()) == (3, 3, 1)
        with torch_on_one_thread() as nested:
            assert nested == 3
        assert (num_threads(), torch.get_num_threads()) == (3, 1)
    assert num_threads() == torch.get_num_threads() == 3
    with pytest.raises(KeyError), torch_on_one_thread():
        raise KeyError
    assert torch.get_num_threads() == 3
    assert torch.ops.ekpnet.team_threads(0) == 0


@pytest.mark.parametrize("number", [1, 3])
def test_work_beside_what_goes_on(threads, number):
    """On a thread of its own if there is one, and one for its ops; what it raises comes here."""
    threads(number)
    own = threading.get_ident()

    def work():
        return threading.get_ident() == own, num_threads(), torch.get_num_threads()

    with torch_on_one_thread():
        assert beside(work)() == (number == 1, 1, 1)
        assert num_threads() == number
        with pytest.raises(KeyError, match="no result"):
            beside(lambda: {}["no result"])()


@pytest.mark.parametrize("number", [1, 2, 5])
def test_shared_numbers_are_taken_once_by_threads_of_one(threads, number):
    threads(3)
    meet, done = threading.Barrier(number, timeout=60), []

    def work(i):
        if i < number:  # which nobody takes two of
            meet.wait()
        state = num_threads(), torch.get_num_threads(), torch.is_grad_enabled()
        done.append((i, threading.get_ident(), state))

    with torch.no_grad():
        share(work, 40, number)
    each = 3 if number == 1 else 1
    assert sorted(i for i, _, _ in done) == list(range(40))
    assert len({ident for _, ident, _ in done}) == number
    assert {state for _, _, state in done} == {(each, each, False)}
    assert (num_threads(), torch.get_num_threads()) == (3, 3)


def test_nothing_and_one_number_are_not_shared():
    own, found = threading.get_ident(), []
    share(lambda i: found.append((i, threading.get_ident())), 0, 4)
    share(lambda i: found.append((i, threading.get_ident())), 1, 4)
    assert found == [(0, own)]


def test_the_lowest_error_of_shared_numbers_is_raised_after_all_calls_ended(threads):
    threads(2)
    meet, began, ended = threading.Barrier(2, timeout=60), [], []

    def work(i):
        began.append(i)
        if i < 2:
            meet.wait()
        if i == 0:
            while len(ended) < 1:  # the other one has failed by then
                time.sleep(0.001)
        ended.append(i)
        raise KeyError(i)

    with pytest.raises(KeyError, match="0"):
        share(work, 50, 2)
    assert sorted(began) == sorted(ended) == [0, 1]
    assert (num_threads(), torch.get_num_threads()) == (2, 2)


def test_team_threads_refuses_what_is_no_number_of_threads():
    with pytest.raises(RuntimeError, match=r"threads is -1, expected 0 to"):
        torch.ops.ekpnet.team_threads(-1)


def test_a_call_beside_ops_has_a_threads_place_until_it_is_done(threads):
    threads(2)
    places = torch.ops.ekpnet.team_beside
    with ThreadPoolExecutor(1) as pool:
        assert beside_ops(pool, "done".upper).result() == "DONE"
        with pytest.raises(ZeroDivisionError):
            beside_ops(pool, lambda: 1 / 0).result()
    with pytest.raises(RuntimeError, match="shutdown"):
        beside_ops(pool, "done".upper)
    assert (places(True), places(False)) == (1, 0)


# Threads by name before and after some work: a pool of OpenMP stays, as ours does.
THREADS = """
import collections, pathlib
def threads():
    tasks = pathlib.Path("/proc/self/task").iterdir()
    return collections.Counter((task / "comm").read_text() for task in tasks)
"""

CONTEXT = """
import torch
from ekpnet_fast import ops
from ekpnet_fast.ops.threads import torch_on_one_thread
x = torch.arange(1 << 20, dtype=torch.int32)
indptr = torch.arange(0, (1 << 20) + 1, 64)
torch.set_num_threads(3)
before = threads()
with torch_on_one_thread():
    ops.group_pairs(indptr, 8, seed=0, epoch=0)
    (x * 2.0).exp().sum()
added = threads() - before
print(dict(added))
"""


@linux
def test_helpers_are_the_teams_and_torch_starts_none():
    assert run(THREADS + CONTEXT, OMP_NUM_THREADS="3") == "{'ekpnet\\n': 2}"


TRAINING = """
import time
import torch
from support.cinema import fitted
torch.set_num_threads(3)
before = threads()
fitted(epochs=2)
def added():
    return sorted({name.strip() for name in threads() - before} - {"ekpnet"})
until = time.monotonic() + 5  # a thread that was joined may still be on its way out
while added() and time.monotonic() < until:
    time.sleep(0.01)
print(added())
"""


@linux
def test_training_opens_no_region_of_openmp():
    assert run(THREADS + TRAINING, OMP_NUM_THREADS="3") == "[]"


FORK = """
import os, signal
import torch
from ekpnet_fast import ops
torch.set_num_threads(3)
indptr = torch.arange(0, (1 << 16) + 1, 8)
def draw():
    return [x.tolist() for x in ops.group_pairs(indptr, 4, seed=1, epoch=2)]
found = draw()
child = os.fork()
if child == 0:
    signal.alarm(60)
    os._exit(0 if draw() == found else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), draw() == found)
"""


@linux
def test_a_forked_child_has_a_team_of_its_own():
    assert run(FORK) == "0 True"


def test_ops_of_several_python_threads_at_a_time(threads):
    threads(2)
    indptr = torch.arange(0, (1 << 14) + 1, 8)
    expected = [x.tolist() for x in ops.group_pairs(indptr, 4, seed=1, epoch=2)]
    with ThreadPoolExecutor(6) as pool:
        found = pool.map(
            lambda _: [x.tolist() for x in ops.group_pairs(indptr, 4, seed=1, epoch=2)], range(60)
        )
        assert all(x == expected for x in found)
