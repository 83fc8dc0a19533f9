"""Texts as ids, drawn into folders."""

from __future__ import annotations

import duckdb
import pytest

from benchmarks.programs import drawn_texts


def draw(monkeypatch, folder, triples):
    """Run the program."""
    arguments = ["drawn_texts", str(folder), "--triples", str(triples), "--files", "2"]
    monkeypatch.setattr("sys.argv", arguments)
    drawn_texts.main()


def test_the_smallest_data_set_in_a_folder_with_an_apostrophe(monkeypatch, tmp_path):
    folder = tmp_path / "drawn 'so'"
    draw(monkeypatch, folder, drawn_texts.FEWEST)
    with duckdb.connect() as connection:
        counts = [
            connection.execute("SELECT count(*) FROM read_parquet(?)", [files]).fetchall()[0][0]
            for files in (
                [str(path) for path in sorted((folder / table).iterdir())]
                for table in ("kg", "interactions", "links")
            )
        ]
    assert counts == [drawn_texts.FEWEST, drawn_texts.FEWEST // 10, 1]


def test_too_few_triples_are_refused(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit):
        draw(monkeypatch, tmp_path / "drawn", drawn_texts.FEWEST - 1)
    assert "--triples: found 499, expected at least 500" in capsys.readouterr().err
    assert not (tmp_path / "drawn").exists()
