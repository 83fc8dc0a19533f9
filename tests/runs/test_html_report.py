"""The page of a run, and what TensorBoard is told."""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from ekpnet_fast import train
from ekpnet_fast.evaluation import metrics
from ekpnet_fast.runs import html_report, runner
from ekpnet_fast.runs.options import parse_command

SMALL = [
    *["--epochs", "1", "--threads", "1", "--shape.width", "4", "--shape.slots", "8"],
    *["--synthetic.users", "60", "--synthetic.items", "80", "--synthetic.positives", "10"],
    *["--synthetic.attributes", "16", "--synthetic.parents", "4", "--synthetic.triples", "435"],
]


@pytest.fixture(autouse=True)
def surroundings(threads, monkeypatch):
    """Runs set torch's threads and look at EKPNET_DATA."""
    monkeypatch.delenv("EKPNET_DATA", raising=False)


class Page(HTMLParser):
    """What a page refers to, and its ids, labels and headings."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.references, self.outside, self.labels, self.scopes = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if "id" in found:
            self.ids.append(found["id"])
        for name in ("href", "xlink:href", "src"):
            if name in found:
                inner = found[name].startswith("#")
                (self.references if inner else self.outside).append(found[name].lstrip("#"))
        if tag == "svg":
            self.labels.append(found.get("aria-label"))
        if tag == "th":
            self.scopes.append(found.get("scope"))


def test_curves_by_hand():
    positive = np.array([True, False, True, False])
    scores = np.array([0.9, 0.8, 0.8, 0.1], np.float32)
    false, true = html_report.roc(positive, scores)
    assert false.tolist() == [0, 0, 0.5, 1] and true.tolist() == [0, 0.5, 1, 1]
    assert np.trapezoid(true, false) == metrics.auc(positive, scores) == 0.875
    recall, precision = html_report.precision_recall(positive, scores)
    assert recall.tolist() == [0.5, 1, 1]
    assert precision == pytest.approx([1, 2 / 3, 0.5])
    expected, found = html_report.calibration(positive, scores.astype(float), bins=2)
    assert expected == pytest.approx([0.45, 0.85], abs=1e-6)
    assert found.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("protocol", ["ripplenet", "recbole"])
def test_a_page_of_its_own(tmp_path, protocol):
    pytest.importorskip("matplotlib", reason="the extra report is not installed")
    assert train.main([*SMALL, "--protocol", protocol, "--report", "--output", str(tmp_path)]) == 0
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert page.outside == [] and "@import" not in text and "<script" not in text
    assert len(set(page.ids)) == len(page.ids)
    assert set(page.references) <= set(page.ids)
    assert all(page.labels) and len(page.labels) == (8 if protocol == "ripplenet" else 5)
    assert set(page.scopes) == {"col", "row"}
    assert "@media print" in text and len(text) < 500_000
    assert ("ROC curve" in text) == (protocol == "ripplenet")
    stored = json.loads((tmp_path / "metrics.json").read_text())
    at = stored["ranking"]["10"]
    assert (
        "<td>{:.4g} [{:.4g}, {:.4g}]</td>".format(*(at[f"hit{x}"] for x in ("", "_low", "_high")))
        in text
    )
    assert f"<td>{at['coverage']:.4g}</td>" in text
    assert stored["data_hash"] in text and stored["environment"]["torch"] in text
    for heading in ("Training", "Top-K lists", "Time", "Data set", "Options and environment"):
        assert f"<h2>{heading}</h2>" in text


def test_a_report_needs_a_folder_and_matplotlib(capsys, monkeypatch, tmp_path):
    assert train.main([*SMALL, "--report"]) == 2
    assert "--report is true but there is no --output" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert train.main([*SMALL, "--report", "--output", str(tmp_path)]) == 2
    assert "pip install 'ekpnet_fast[report]'" in capsys.readouterr().err


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra track is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = runner.run(
        parse_command([*SMALL, "--ranking", "false", "--track", str(tmp_path)]).config
    )
    events = EventAccumulator(str(tmp_path)).Reload()
    for number, record in enumerate(found["epochs"], 1):
        for name in ("loss", "valid_auc"):
            (event,) = events.Scalars(f"{record['stage']}/{name}")
            assert event.step == number and event.value == pytest.approx(record[name])


def test_tracking_needs_tensorboard(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert train.main([*SMALL, "--track", str(tmp_path)]) == 2
    assert "pip install 'ekpnet_fast[track]'" in capsys.readouterr().err
