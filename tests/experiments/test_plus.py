"""The table of EKPNet+: which runs it needs, and with which options."""

from __future__ import annotations

import types
from pathlib import Path

import pytest

from ekpnet_fast.experiments.__main__ import main
from ekpnet_fast.experiments.plan import Settings
from ekpnet_fast.experiments.plus import FIRST_SEED, VARIANTS, PlusCell, PlusPlan
from ekpnet_fast.models.wide.part import EASE_ITEMS


def plan(rows=(), **changes):
    changes = {"datasets": ("last-fm",), **changes}
    return PlusPlan(Settings(Path("unused"), **changes), (), rows)


def test_seeds_are_not_those_that_options_were_chosen_on():
    cells = plan(["linear"], seeds=2).cells("plus")
    assert [(cell.variant, cell.seed) for cell in cells] == [("linear", 10), ("linear", 11)]
    assert FIRST_SEED > 1
    assert str(cells[0]) == "last-fm linear part alone, seed 10"


@pytest.mark.parametrize("name", VARIANTS)
def test_every_row_has_options_of_its_own(name):
    """Which differ from the model's defaults."""
    variant = VARIANTS[name]
    shown = []
    for dataset in ("last-fm", "book-crossing", "movielens-1m"):
        of_one = plan([name], seeds=1, threads=1, datasets=(dataset,))
        base = of_one.config(PlusCell(dataset, variant.model, FIRST_SEED, variant=variant.model))
        for cell in of_one.cells("plus"):
            config = of_one.config(cell)
            assert (config.model, config.seed, config.threads) == (variant.model, FIRST_SEED, 1)
            assert config.ranking and (config == base) == (name == variant.model)
            assert not set(variant.options) & set(config.auto)  # rules leave them as they are
            shown.append(dataset)
    assert shown == ["last-fm", "book-crossing", "movielens-1m"]


@pytest.mark.slow
@pytest.mark.data
def test_the_command_writes_what_it_ran(tmp_path, data_root):
    arguments = ["plus", "--data-root", str(data_root), "--output", str(tmp_path / "out")]
    arguments += ["--datasets", "last-fm", "--rows", "popularity", "linear", "--seeds", "1"]
    assert main([*arguments, "--threads", "1"]) == 0
    page = (tmp_path / "out" / "ripplenet" / "plus.md").read_text()
    lines = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    assert lines[0][0] == "| last-fm" and lines[0][-1] == "CPU s |"
    assert [line[0] for line in lines[2:]] == ["| item popularity", "| linear part alone"]
    popular, fitted = (float(line[1]) for line in lines[2:])
    assert 0.77 < popular < 0.81 and 0.85 < fitted < 0.88
    text = (tmp_path / "out" / "ripplenet" / "plus.csv").read_text()
    assert 'last-fm,"linear part alone",AUC,' in text


def test_rows_that_a_data_set_is_too_large_for_are_left_out():
    rest = {"item_names": None, "reaches_items": True}
    many = types.SimpleNamespace(num_items=EASE_ITEMS + 1, **rest)
    settings = Settings(Path("unused"), datasets=("last-fm", "large"), seeds=1)
    few = types.SimpleNamespace(num_items=EASE_ITEMS, **rest)
    cells = PlusPlan(settings, (few, many), ("lines", "ease")).cells("plus")
    assert [(cell.dataset, cell.variant) for cell in cells] == [
        ("last-fm", "lines"), ("last-fm", "ease"), ("large", "lines")
    ]  # fmt: skip


def test_data_that_come_split_stay_so(tmp_path, capsys):
    """By default: under a protocol that draws, rows of test would be trained on, which is said."""
    folder = tmp_path / "mine"
    folder.mkdir()
    lists = [[(u + j) % 12 for j in range(5)] for u in range(40)]
    for part, of in (("train", slice(0, 4)), ("test", slice(4, 5))):
        rows = (" ".join(map(str, [u, *items[of]])) for u, items in enumerate(lists))
        (folder / f"{part}.txt").write_text("\n".join(rows) + "\n")
    arguments = ["plus", "--datasets", str(folder), "--rows", "popularity", "--seeds", "1"]
    arguments += ["--threads", "1", "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    page = (tmp_path / "out" / "fixed" / "plus.md").read_text()
    assert "(protocol fixed)" in page and "Recall@20" in page and "item popularity" in page
    assert "split anew" not in capsys.readouterr().out
    assert main([*arguments, "--protocol", "ripplenet"]) == 0
    assert "comes split, and is split anew" in " ".join(capsys.readouterr().out.split())
