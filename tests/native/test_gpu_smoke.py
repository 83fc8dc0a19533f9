"""Each op once on a GPU against the CPU: what a new machine, or a new build, shows first."""

from __future__ import annotations

import re

import pytest
import torch

from ekpnet_fast.ops.list_losses import LOSSES
from support.contracts import outputs_and_gradients
from support.devices import Cpu, on_gpus
from support.graphs import csr
from support.loss_problems import loss_problem
from support.places import ROOT
from support.problems import attention_problem, deep_problem, triple_problem

PROBLEMS = {
    "ripple_attention": lambda: list(attention_problem(pairs=20, groups=4)),
    "deep_score": lambda: deep_problem(pairs=20),
    "triple_loss": lambda: triple_problem(triples=20),
}


def weights(device):
    return device.call("ripple_attention_weights", *attention_problem(pairs=20, groups=4))


def top_lists(device):
    scores = torch.tensor([[0.5, 2.0, 1.0, 2.0], [3.0, 1.0, 0.0, -1.0]])
    return device.call("top_items", scores, *csr([[1], [0, 3]]), 3)


def after_a_step(device):
    x = [torch.arange(24.0).view(4, 6), torch.zeros(4, 6), torch.zeros(4, 6)]
    rows = torch.tensor([2, 0], dtype=torch.int32)
    device.call("row_adam_", *x, rows, torch.ones(2, 6), step=1, lr=0.1)
    return torch.stack(x)


def all_gradients(device):
    problem = loss_problem(pairs=20, groups=4, hops=2, slots=5, width=8)
    weights = dict(lambda1=0.3, lambda2=0.2, lambda3=0.1)
    found = [device.gradients(problem, loss=loss, **weights) for loss in LOSSES]
    return torch.cat([x.flatten().double() for of_loss in found for x in of_loss])


def losses_of_lists(device):
    logits, labels = torch.linspace(-3, 3, 20), torch.arange(20) % 3 % 2.0
    lists = torch.tensor([0, 1, 9, 20])
    found = [device.call("list_loss", logits, labels, lists, LOSSES.index(x)) for x in LOSSES[1:]]
    return torch.cat([x.flatten().double() for pair in found for x in pair])


OTHERS = {
    "ripple_attention_weights": weights,
    "top_items": top_lists,
    "row_adam_": after_a_step,
    "ekpnet_gradients": all_gradients,
    "list_loss": losses_of_lists,
}


# Ops that a GPU has no part in: a batch is made ahead of the step; the wide part is fitted before
# the first one, and its logits come with the batch or are added to lists; processes share rows of
# tables on CPUs alone.
ON_THE_HOST = {
    *("build_csr", "group_pairs", "localize_batch", "localize_fold_batch"),
    *("sample_fold_ripple_sets", "sample_neighbors", "sample_ripple_sets", "sample_triples"),
    *("local_ridge", "sparse_product", "strongest_products", "wide_features", "wide_logits"),
    *("place_rows", "take_rows_", "add_rows_", "square_norms"),
    *("team_beside", "team_threads"),
}


@pytest.mark.smoke
@on_gpus
@pytest.mark.parametrize("name", PROBLEMS)
def test_op_and_its_gradient(device, name):
    found, expected = (
        outputs_and_gradients(lambda *x, d=d: d.call(name, *x), PROBLEMS[name]())
        for d in (device, Cpu())
    )
    for ours, theirs in zip(found, expected, strict=True):  # the outputs, then the gradients
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.smoke
@on_gpus
@pytest.mark.parametrize("name", OTHERS)
def test_op(device, name):
    torch.testing.assert_close(OTHERS[name](device), OTHERS[name](Cpu()), rtol=1e-4, atol=1e-6)


def registered(device):
    """Names of the ops that a device has."""
    bindings = (ROOT / "csrc" / "bindings").glob(f"*_{device}.cpp")
    return set(re.findall(r'm\.impl\("(\w+)"', "".join(x.read_text() for x in bindings)))


def test_no_op_is_left_out():
    found = registered("cuda")
    assert {x.removesuffix("_backward") for x in found} == {*PROBLEMS, *OTHERS}
    assert registered("cpu") - found == ON_THE_HOST
