"""The examples in the docstrings of the public face give what they say."""

from __future__ import annotations

import doctest

import pytest

from ekpnet_fast.recommender import answers, live, names, query, recommender

MODULES = (recommender, live, names, answers, query)


def examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for module in MODULES for test in finder.find(module) if test.examples]
    return [pytest.param(test, id=test.name.removeprefix("ekpnet_fast.")) for test in found]


@pytest.mark.parametrize("test", examples())
def test_example(test, numbered):
    """`recommender` stands for the one that the class's own example makes."""
    test.globs.setdefault("recommender", numbered)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    said = []
    assert runner.run(test, out=said.append).failed == 0, "".join(said)
