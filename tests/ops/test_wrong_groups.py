"""Row pointers of groups that are none: a GPU stops the launch, for the host cannot look."""

import json
import os
import subprocess
import sys

import pytest
import torch

from support.loss_problems import WEIGHTS, loss_problem
from support.places import PACKAGE, ROOT, SUPPORT
from support.problems import attention_problem
from support.programs import PATIENCE

PAIRS, GROUPS = 64, 9

# Row pointers [G + 1] of B pairs, made wrong.
WRONG = {
    "begins later": lambda indptr: indptr.put_(torch.tensor([0]), torch.tensor([1])),
    "begins before": lambda indptr: indptr.put_(torch.tensor([0]), torch.tensor([-1])),
    "falls": lambda indptr: indptr.put_(torch.tensor([1]), indptr[-1:].clone()),
    "ends early": lambda indptr: indptr.put_(torch.tensor([-1]), indptr[-1:] - 1),
    "ends late": lambda indptr: indptr.put_(torch.tensor([-1]), indptr[-1:] + 1),
    # 0 in 32 bits
    "is huge": lambda indptr: indptr.put_(torch.tensor([GROUPS // 2]), torch.tensor([1 << 32])),
}


def forward(device, wrong):
    problem = attention_problem(pairs=PAIRS, groups=GROUPS)
    wrong(problem.group_indptr)
    device.call("ripple_attention", *problem, False)


def backward(device, wrong):
    problem = attention_problem(pairs=PAIRS, groups=GROUPS)
    wrong(problem.group_indptr)
    dz, dmatch = torch.randn(PAIRS, 3 * 16), torch.randn(PAIRS)
    device.ops.ripple_attention_backward(dz, dmatch, *problem, False)


def gradients(device, wrong):
    size = dict(pairs=PAIRS, groups=GROUPS, hops=1, slots=4, width=4, rows=20, triples=5)
    problem = loss_problem(**size)
    wrong(problem[5].group_indptr)
    device.gradients(problem, **WEIGHTS)


def list_loss(device, wrong):
    lists = torch.linspace(0, PAIRS, GROUPS + 1).long()
    wrong(lists)
    device.call("list_loss", torch.randn(PAIRS), torch.arange(PAIRS).remainder(2).float(), lists, 1)


def top_items(device, wrong):
    seen_indptr = torch.linspace(0, PAIRS, GROUPS + 1).long()
    wrong(seen_indptr)
    seen = torch.arange(PAIRS, dtype=torch.int32)
    device.call("top_items", torch.randn(GROUPS, 100), seen_indptr, seen, 5)


OPS = {f.__name__: f for f in (forward, backward, gradients, list_loss, top_items)}

# Calls an op in a child for each way of being wrong, because a launch that is stopped ends it.
PROGRAM = """
import json, os, sys, tempfile, ekpnet_fast
sys.path[:0] = sys.argv[3:5]
from support.devices import EmulatedGpu
from support.places import module_of
tests, device = module_of(sys.argv[2]), EmulatedGpu(sys.argv[1])
found = {}
for name, wrong in {"right": lambda indptr: None, **tests.WRONG}.items():
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            os.dup2(said.fileno(), 2)
            tests.OPS[sys.argv[5]](device, wrong)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        found[name] = status, said.read().decode()
print(json.dumps(found))
"""


@pytest.mark.parametrize("op", OPS)
def test_wrong_groups_end_the_launch(emulated, op):
    done = subprocess.run(
        [
            *(sys.executable, "-c", PROGRAM, str(emulated.path), __file__),
            *(str(SUPPORT.parent), str(ROOT), op),
        ],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("right") == [0, ""]
    assert set(found) == set(WRONG)
    for wrong, (status, said) in found.items():
        assert status < 0, wrong  # aborted
        message = "row pointers that do not rise from 0 to the number of pairs"
        assert said.rstrip().endswith(message), (wrong, said)
