"""Bounds of EKPNet's logits: that they hold, for what is computed, and that they say something."""

from __future__ import annotations

import pytest
import torch

from ekpnet_fast import ops
from ekpnet_fast.models.bounds import bounds_of_layers
from ekpnet_fast.ops import reference
from support.problems import attention_problem


def problem(seed=0, *, scale=None, layers=2, activation="tanh", **sizes):
    """Propagation whose pairs are every item of every group, and layers of its width."""
    given = attention_problem(seed, pairs=0, scale=scale, **sizes)
    count, width = len(given.counts), given.entity.shape[2]
    items = torch.arange(len(given.entity), dtype=torch.int32)
    every = given._replace(
        items=items.repeat(count), group_indptr=torch.arange(count + 1) * len(items)
    )
    stream = torch.Generator().manual_seed(seed + 1)
    deviation = max(1.0, scale or 1.0)
    K = width * (given.counts.shape[1] + 1)

    def reals(*shape):
        return torch.randn(shape, generator=stream) * deviation

    parameters = (reals(layers, K, K) / K**0.5, reals(layers, K), reals(K), reals(1))
    return given._replace(items=items), every, parameters, activation


def logits_and_bounds(given, every, layers, activation, backend=ops):
    """Logits [G, I], and the middle and half the width of their bounds."""
    z, _ = backend.ripple_attention(every)
    logits = backend.deep_score(z, *layers, activation)
    found = bounds_of_layers(given, layers, activation)
    middle = found.height.unsqueeze(1) + found.slope @ found.vectors.double().T
    return logits.view(middle.shape).double(), middle, found.error.unsqueeze(1)


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid"])
@pytest.mark.parametrize("scale", [0.01, 0.1, None, 2.0])
@pytest.mark.parametrize("backend", [ops, reference], ids=["native", "reference"])
@pytest.mark.parametrize(
    "sizes",
    [
        {"width": 4, "hops": 3, "slots": 7, "layers": 3},
        {"width": 17, "hops": 2, "slots": 32, "layers": 2, "channels": 1},
        {"width": 1, "hops": 1, "slots": 1, "layers": 0, "rows": 90},
    ],
    ids=lambda sizes: f"D{sizes['width']}",
)
def test_no_logit_is_outside(sizes, backend, scale, activation):
    for seed in range(3):
        given = problem(seed, scale=scale, activation=activation, **sizes)
        logits, middle, error = logits_and_bounds(*given, backend=backend)
        assert error.isfinite().all()
        assert ((logits - middle).abs() <= error).all()


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid"])
def test_of_one_vector_only_rounding_is_left(activation):
    """Items that are all alike: little is left, but all that float32 rounds."""
    given, every, layers, _ = problem(width=8, layers=2)
    entity = given.entity.clone()
    entity[:] = entity[:1]
    logits, middle, error = logits_and_bounds(
        given._replace(entity=entity), every._replace(entity=entity), layers, activation
    )
    wrong = (logits - middle).abs()
    assert (error > 0).all() and (error < 5e-3).all() and (wrong <= error).all()
    assert wrong.max() > 0


def test_near_linear_logits_are_known_to_a_small_part_of_their_range():
    logits, _, error = logits_and_bounds(*problem(scale=0.05, width=8, layers=3))
    spans = logits.amax(1) - logits.amin(1)
    assert (error[:, 0] < 0.1 * spans).all()


def test_a_half_as_wide_box_has_errors_of_a_quarter():
    """The rest of a smooth function beside its linear part is quadratic, and rounding is on top."""
    given, _, layers, activation = problem(scale=0.1, width=8, layers=1)
    items = given.entity[:, 0].clone()

    def error(factor):
        # Items of their own, so that the ripple sets stay.
        entity = torch.cat([given.entity, given.entity])
        entity[len(items) :, 0] = items * factor
        among = given._replace(entity=entity, items=given.items + len(items))
        return bounds_of_layers(among, layers, activation).error

    rounding = error(0.0)
    found = (error(0.25) - rounding) / (error(0.5) - rounding)
    assert found.tolist() == pytest.approx([0.25] * 9, rel=0.1)


def test_the_bounds_of_groups_do_not_depend_on_others():
    given, _, layers, activation = problem(groups=70, slots=5, width=4)
    found = bounds_of_layers(given, layers, activation)
    for g in (0, 63, 64, 69):
        one = {
            name: getattr(given, name)[g : g + 1]
            for name in ("heads", "relations", "tails", "counts")
        }
        alone = bounds_of_layers(given._replace(**one), layers, activation)
        assert alone.error.item() == pytest.approx(found.error[g].item(), rel=1e-9)
        assert alone.height.item() == pytest.approx(found.height[g].item(), rel=1e-9)


@pytest.mark.parametrize("value", [1e20, float("inf"), float("nan")])
def test_where_float32_may_overflow_nothing_is_known(value):
    given, _, layers, activation = problem(width=4)
    given = given._replace(entity=given.entity * value)
    error = bounds_of_layers(given, layers, activation).error
    assert not error.isfinite().any()


def test_float64_logits_are_inside_too():
    """They are what the bounds are about, but for rounding."""
    given, every, layers, activation = problem(width=8, scale=0.3)
    z, _ = reference.ripple_attention(
        every._replace(**{n: getattr(every, n).double() for n in every._fields[:4]})
    )
    logits = reference.deep_score(z, *(x.double() for x in layers), activation)
    found = bounds_of_layers(given, layers, activation)
    middle = found.height.unsqueeze(1) + found.slope @ found.vectors.double().T
    assert ((logits.view(middle.shape) - middle).abs() <= found.error.unsqueeze(1)).all()
