"""Every format of data, damaged: one line that names what it is about, or a sound data set."""

from __future__ import annotations

import shutil
from pathlib import Path
from unicodedata import category

import numpy as np
from hypothesis import strategies as st

from ekpnet_fast.data import load_dataset
from ekpnet_fast.data.importing.importer import import_dataset
from ekpnet_fast.data.tables import Dataset
from ekpnet_fast.errors import EkpnetError
from support.damaged_tables import damages, folders, imports
from support.fuzzing import fuzzed, tell_seed

FOLDERS = folders()
FILES = [(kind, name) for kind, files in FOLDERS.items() for name in files]


def expect_sound(data: Dataset) -> None:
    """Every number is one of a row that there is, and no id is that of two."""
    clicks = data.rows if data.rows is not None else data.interactions
    assert clicks is not None and len(clicks.users) == len(clicks.items)
    for numbers, count in (
        (clicks.users, data.num_users),
        (clicks.items, data.num_items),
        (data.heads, data.num_entities),
        (data.relations, data.num_relations),
        (data.tails, data.num_entities),
    ):
        assert numbers.dtype == np.int32
        assert not len(numbers) or (numbers.min() >= 0 and numbers.max() < count)
    assert data.num_items <= data.num_entities < 2_000_000
    for ids, count in ((data.user_ids, data.num_users), (data.item_ids, data.num_items)):
        assert ids is None or len(ids) == len(set(ids)) == count
    if data.rows is not None:
        assert set(data.rows.labels.tolist()) <= {0, 1}
    elif data.interactions is not None and data.interactions.ratings is not None:
        assert np.isfinite(data.interactions.ratings).all()


def expect_line(error: EkpnetError, *about: Path | str) -> None:
    """One line that a terminal can show, about one of these."""
    said = str(error)
    assert not {category(sign) for sign in said} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert len(said) < 2100
    assert any(str(word) in said for word in about), said


def test_whole_folders_and_files_are_read(tmp_path):
    for kind, files in FOLDERS.items():
        folder = tmp_path / kind
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        expect_sound(load_dataset(str(folder)))
    for name, (option, content) in imports(tmp_path).items():
        expect_sound(imported(tmp_path / "in", name, option, content))


@fuzzed(place=st.sampled_from(FILES), how=damages())
def test_folders(tmp_path_factory, place, how):
    tell_seed()
    kind, damaged = place
    folder = tmp_path_factory.getbasetemp() / "damaged data"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in FOLDERS[kind].items():
        (folder / name).write_bytes(how(content) if name == damaged else content)
    try:
        found = load_dataset(str(folder))
    except EkpnetError as error:
        expect_line(error, folder)
    else:
        expect_sound(found)


def imported(folder: Path, name: str, option: str, content: bytes, **more: object) -> Dataset:
    """Data set of usual files but one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    usual = {"interactions": "buy.csv", "kg": "kg.csv"}
    whole = imports_of(folder)
    for usual_name in usual.values():
        (folder / usual_name).write_bytes(whole[usual_name][1])
    (folder / name).write_bytes(content)
    given = {**{key: folder / file for key, file in usual.items()}, option: folder / name, **more}
    return import_dataset(folder / "out", force=True, **given).dataset


_whole: dict[str, tuple[str, bytes]] = {}


def imports_of(folder: Path) -> dict[str, tuple[str, bytes]]:
    """The files of `imports`, made once."""
    if not _whole:
        _whole.update(imports(folder))
    return _whole


IMPORTS = (
    *("buy.csv", "buy.tsv", "buy.dat", "buy.csv.gz", "buy.csv.zst", "buy.csv.bz2", "buy.jsonl"),
    *("buy.json", "buy.parquet", "numbers.parquet", "utf-16.csv", "kg.csv", "kg.nt", "kg.nt.gz"),
    *("kg.nq.zst", "kg.ttl", "kg.rdf", "links.csv", "items.csv"),
)


@fuzzed(name=st.sampled_from(IMPORTS), how=damages(), lenient=st.booleans())
def test_imports(tmp_path_factory, name, how, lenient):
    tell_seed()
    folder = tmp_path_factory.getbasetemp() / "damaged import"
    option, content = imports_of(tmp_path_factory.getbasetemp())[name]
    try:
        found = imported(folder, name, option, how(content), lenient=lenient)
    except EkpnetError as error:
        expect_line(error, folder, f"--{option}", "clicks", "items", "users", "positives")
        assert not (folder / "out").exists()
    else:
        expect_sound(found)
        again = load_dataset(str(folder / "out"))
        assert again.item_ids == found.item_ids and np.array_equal(again.heads, found.heads)


@fuzzed(data=st.data(), how=damages())
def test_imported_sets(tmp_path_factory, data, how):
    """Refused: their files carry hashes."""
    tell_seed()
    folder = tmp_path_factory.getbasetemp() / "damaged set"
    out = folder / "out"
    if not out.exists():
        option, content = imports_of(tmp_path_factory.getbasetemp())["items.csv"]
        imported(folder, "items.csv", option, content)
    files = sorted(path.name for path in out.iterdir())
    path = out / data.draw(st.sampled_from(files))
    whole = path.read_bytes()
    damaged = how(whole)
    path.write_bytes(damaged)
    try:
        found = load_dataset(str(out))
    except EkpnetError as error:
        expect_line(error, out)
    else:
        expect_sound(found)
        assert damaged == whole or path.suffix == ".json"
    finally:
        path.write_bytes(whole)
