"""Tables from runs that never happened: what stands where, what is bold, what is said."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from ekpnet_fast.config import RunConfig
from ekpnet_fast.experiments import plan as planning
from ekpnet_fast.experiments import significance, tables, tables_io
from ekpnet_fast.experiments.plan import Cell, Plan, Settings

DATA = "book-crossing"


@pytest.fixture
def table(tmp_path, monkeypatch, fabricated):
    """Builds a table from test AUCs per model and seed; None is a run that failed."""
    known = dict.fromkeys(("popularity", "ekp_no", "ekp_att", "ekp_frame", "ekpnet"))
    monkeypatch.setattr(planning, "MODELS", known)

    def build(experiment, aucs, popularity=0.7, failures=None, **more):
        seeds = len(next(iter(aucs.values())))
        settings = Settings(output=tmp_path, datasets=(DATA,), seeds=seeds, **more)
        plan = Plan(settings)
        clicked = settings.protocol == "ripplenet"
        found = {
            Cell(DATA, model, seed): fabricated(auc=auc, clicked=clicked)
            for model, values in {"popularity": [popularity] * seeds, **aucs}.items()
            for seed, auc in enumerate(values)
            if auc is not None
        }
        sections = tables.sections_of(experiment, plan, found)
        paths = tables_io.write_table(experiment, plan, sections, found, failures or {}, [])
        return {path.suffix: path.read_text() for path in paths}

    return build


def rows_of(page):
    """The cells of a page's Markdown table, by row label."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return cells[0], {line[0]: line[1:] for line in cells[2:]}


def test_table_3(table):
    page = table("table3", {"ekpnet": [0.73, 0.74, 0.75]}, popularity=0.735)[".md"]
    header, rows = rows_of(page)
    assert header[:5] == [DATA, "AUC", "AUC, the paper", "ACC", "ACC, the paper"]
    # Popularity first; systems that cannot be run keep the paper's value alone; MF and AKUPM, of
    # which neither is known, and KCAN, which the paper ran on MovieLens only, have no row.
    assert list(rows) == [
        *("item popularity", "CKE", "DKN", "Wide&Deep", "RippleNet", "KGCN", "Ripp-MKR", "EKPNet")
    ]
    assert rows["item popularity"][:2] == ["0.7350 ± 0.0000", ""]
    assert rows["RippleNet"] == ["-", "0.698", "-", "0.640", "-", "-", "-", "-"]
    assert rows["EKPNet"][:4] == ["0.7400 ± 0.0100", "0.741", "0.6000 ± 0.0000", "0.677"]
    assert "Below the paper's value: book-crossing EKPNet AUC by 0.0010;" in page
    assert "(protocol ripplenet)" in page
    assert "over 3 seeds (0 to 2)" in page
    assert "Machine: abacus (avx2), 1 threads, device cpu" in page


def test_a_new_model_appears_by_being_registered(table, monkeypatch):
    monkeypatch.setitem(planning.MODELS, "mf", None)
    _, rows = rows_of(table("table3", {"ekpnet": [0.7], "mf": [0.6]})[".md"])
    assert rows["MF"][0] == "0.6000"


def test_bold_is_best_and_significant(table):
    clear = {"ekp_no": [0.70, 0.71, 0.72], "ekpnet": [0.80, 0.81, 0.8201]}
    page = table("table4", clear, popularity=0.6)[".md"]
    _, rows = rows_of(page)
    assert rows["EKPNet"][0] == "**0.8100 ± 0.0101**"
    assert "**" not in rows["EKP_no"][0] + rows["item popularity"][0]
    # ACC is the same everywhere: best, but better than nobody.
    assert "**" not in "".join(row[2] for row in rows.values())


@pytest.mark.parametrize(
    ("aucs", "popularity"),
    [
        ({"ekp_no": [0.70, 0.75, 0.72], "ekpnet": [0.73, 0.71, 0.76]}, 0.6),
        ({"ekp_no": [0.70], "ekpnet": [0.80]}, 0.6),
        ({"ekp_no": [0.70, 0.71, 0.72], "ekpnet": [0.80, 0.81, None]}, 0.7102),
        ({"ekp_no": [0.70, 0.71, 0.72], "ekpnet": [0.80, 0.81, 0.82]}, 0.81),
    ],
    ids=["no clear winner", "one seed", "a run is missing", "popularity is as good"],
)
def test_otherwise_nothing_is_bold(table, aucs, popularity):
    page = table("table4", aucs, popularity=popularity)[".md"]
    assert not any("**" in row[0] for row in rows_of(page)[1].values())


def test_p_values_are_told_with_the_names(table):
    aucs = {"ekp_no": [0.4, 0.5, 0.6], "ekpnet": [0.5, 0.7, 0.9]}
    page = table("table4", aucs, popularity=0.3)[".md"]
    # 1 - sqrt(3/4), as in test_significance.
    assert "AUC EKPNet over EKP_no by 0.2000, p = 0.13;" in page
    assert f"{significance.LEVEL:.0%}" == "5%" and "at 5%" in page


def test_a_failed_run_is_named(table):
    cell = Cell(DATA, "ekpnet", 1)
    page = table("table4", {"ekpnet": [0.7, None]}, failures={cell: "the loss is nan"})[".md"]
    assert "Failed and left out: book-crossing ekpnet, seed 1: the loss is nan" in page
    assert rows_of(page)[1]["EKPNet"][0] == "0.7000"


def test_table_5(table):
    page = table("table5", {"ekpnet": [0.7, 0.7]})[".md"]
    header, rows = rows_of(page)
    assert header[1:5] == [
        *("training, s", "training, s, the paper", "first stage, s", "second stage, s")
    ]
    assert rows["EKPNet"][:4] == ["3.0 ± 0.0", "152.2 + 122.4", "2.0 ± 0.0", "1.0 ± 0.0"]
    assert rows["KGCN"][:2] == ["-", "734.1"]
    assert "A100-PCIE-40GB" in page and "1 threads" in page
    assert "**" not in page


def test_figures_4_to_6_have_every_k(table):
    for figure in ("figure4", "figure5", "figure6"):
        header, rows = rows_of(table(figure, {"ekpnet": [0.5]})[".md"])
        assert [name.split("@")[1] for name in header[1:]] == [
            *("1", "2", "5", "10", "20", "50", "100")
        ]
        assert rows["EKPNet"] == [f"{0.5 / k:.4f}" for k in (1, 2, 5, 10, 20, 50, 100)]


def test_figure_7(tmp_path, fabricated):
    settings = Settings(output=tmp_path, datasets=(DATA,), seeds=1)
    plan = Plan(settings)
    usual = RunConfig().shape.layers  # of the cell that the tables share
    found = {
        cell: fabricated(auc=0.5 + (cell.layers or usual) / 100, ranked=False)
        for cell in plan.cells("figure7")
    }
    (section,) = tables.sections_of("figure7", plan, found)
    assert [row.key for row in section.rows] == ["popularity", "relu", "sigmoid", "tanh"]
    for row in section.rows[1:]:
        means = [entry.mean for entry in row.entries.values()]
        assert means == pytest.approx([0.51, 0.52, 0.53, 0.54, 0.55, 0.56])


def test_csv_has_every_number_once(table):
    text = table("table3", {"ekpnet": [0.73, 0.75]})[".csv"]
    lines = list(csv.DictReader(io.StringIO(text)))
    assert {line["protocol"] for line in lines} == {"ripplenet"}
    keys = [(line["data"], line["row"], line["metric"]) for line in lines]
    assert len(keys) == len(set(keys))
    (line,) = (line for line in lines if (line["row"], line["metric"]) == ("ekpnet", "auc"))
    assert (line["mean"], line["values"], line["seeds"]) == ("0.74", "0.73 0.75", "2")
    assert (line["paper"], line["bold"]) == ("0.741", "0")
    assert float(line["sd"]) == pytest.approx(0.0141421, abs=1e-7)


@pytest.mark.parametrize("experiment", ["table3", "table5", "figure4"])
def test_pictures_are_the_same_bytes_every_time(table, experiment):
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    aucs = {"ekpnet": [0.73, 0.75, 0.74]}
    first, again = table(experiment, aucs)[".svg"], table(experiment, aucs)[".svg"]
    assert first == again
    assert "protocol ripplenet" in first and "EKPNet" in first and "dc:date" not in first


def test_the_ranking_protocol_has_columns_of_its_own(table):
    aucs = {"ekpnet": [0.73, 0.75]}
    page = table("table3", aucs, protocol="recbole")[".md"]
    header, rows = rows_of(page)
    assert header[1:] == ["MRR@10", "NDCG@10", "Recall@10", "Hit@10", "Precision@10"]
    # No number of the paper, and so no row that has nothing else.
    assert list(rows) == ["item popularity", "EKPNet"]
    assert rows["EKPNet"][0] == "0.0740 ± 0.0014"
    assert "(protocol recbole)" in page and "test/train = 0.125" in page
    assert "belong to the protocol ripplenet and are not shown" in page
    assert rows_of(table("table4", aucs, protocol="recbole")[".md"])[0] == header
    assert "A100" not in table("table5", aucs, protocol="recbole")[".md"]


def test_quick_results_have_their_own_name_and_a_warning(table, tmp_path):
    page = table("table3", {"ekpnet": [0.7]}, quick=True)[".md"]
    assert "These numbers show that the command works, and nothing else." in page
    assert sorted(path.name for path in Path(tmp_path, "ripplenet").iterdir())[:2] == [
        *("table3.quick.csv", "table3.quick.md")
    ]
