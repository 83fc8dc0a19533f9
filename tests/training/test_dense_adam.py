"""Adam of the dense parameters against torch's, and what it does not import."""

import subprocess
import sys

import torch
from torch import nn

from ekpnet_fast.training.dense_adam import DenseAdam
from support.small_run import SMALL

SHAPES = ((3,), (5, 4), (2, 3, 3))


def _parameters():
    draw = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=draw)) for shape in SHAPES]


def test_steps_and_state_have_the_bits_of_torchs_fused_adam():
    ours, theirs = _parameters(), _parameters()
    adam, reference = DenseAdam(ours, 0.01), torch.optim.Adam(theirs, lr=0.01, fused=True)
    draw = torch.Generator().manual_seed(2)
    for number in range(5):
        reference.zero_grad()
        for at, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if at == 1 and number < 2:
                continue  # without a gradient nothing moves, and its steps are not counted
            gradient = torch.randn(a.shape, generator=draw)
            a.grad, b.grad = gradient.clone(), gradient.clone()
        adam.step()
        reference.step()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    for a, b in zip(ours, theirs, strict=True):
        assert adam.state[a].keys() == reference.state[b].keys()
        for name, value in adam.state[a].items():
            assert torch.equal(value, reference.state[b][name]), name
    assert [float(adam.state[a]["step"]) for a in ours] == [5, 3, 5]


def test_a_state_that_is_loaded_leaves_nothing_of_steps_before():
    """Of a parameter that the state does not have the count begins anew, as of one that is new."""
    parameters, fresh = _parameters(), _parameters()
    adam, other = DenseAdam(parameters, 0.01), DenseAdam(fresh, 0.01)
    for p in parameters:
        p.grad = torch.ones_like(p)
    for _ in range(3):
        adam.step()
    first = parameters[0]
    state = {first: {name: x.clone() for name, x in adam.state[first].items()}}
    adam.load(state)
    other.load({fresh[0]: state[first]})
    with torch.no_grad():
        for a, b in zip(parameters, fresh, strict=True):
            a.copy_(b)
    for p in fresh:
        p.grad = torch.ones_like(p)
    adam.step()
    other.step()
    assert [float(adam.state[p]["step"]) for p in parameters] == [4, 1, 1]
    assert all(torch.equal(a, b) for a, b in zip(parameters, fresh, strict=True))


def test_a_step_without_gradients_changes_nothing():
    parameters = _parameters()
    adam = DenseAdam(parameters, 0.01)
    adam.step()
    assert not adam.state
    assert all(torch.equal(a, b) for a, b in zip(parameters, _parameters(), strict=True))


def test_training_alone_imports_neither_torchs_compiler_nor_what_processes_share():
    program = (
        "import sys\n"
        "from ekpnet_fast.train import main\n"
        f"assert main({[*SMALL, '--dataset', 'synthetic', '--ranking', 'false']}) == 0\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "assert 'ekpnet_fast.training.parallel.group' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
