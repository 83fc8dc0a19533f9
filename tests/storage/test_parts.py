"""Folders that are replaced at once, and what dead writers left."""

from __future__ import annotations

import os
import signal

import pytest

from ekpnet_fast.errors import ConfigError
from ekpnet_fast.storage import parts
from ekpnet_fast.storage.files import write_text
from ekpnet_fast.storage.parts import place_of, recover, remove_unfinished, replaced_folder

OURS = {"a", "b"}.__contains__


def written(place, text):
    with replaced_folder(place, OURS) as part:
        (part / "a").write_text(text)


def in_child(work):
    """Run something in a process of its own; returns its exit status, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(params=["exchanged", "renamed"])
def place(request, tmp_path, monkeypatch):
    if request.param == "renamed":
        monkeypatch.setattr(parts.ctypes, "CDLL", lambda *_, **__: None)
    return tmp_path / "r"


def test_replaced(place):
    written(place, "old")
    (place / "mine").write_text("kept")
    (place / "folder").mkdir()
    written(place, "new")
    assert (place / "a").read_text() == "new" and (place / "mine").read_text() == "kept"
    assert sorted(x.name for x in place.iterdir()) == ["a", "folder", "mine"]
    assert [x.name for x in place.parent.iterdir()] == ["r"]


def test_an_error_leaves_the_old(place):
    written(place, "old")
    with pytest.raises(OSError), replaced_folder(place, OURS) as part:
        (part / "a").write_text("new")
        raise OSError
    assert (place / "a").read_text() == "old"
    assert [x.name for x in place.parent.iterdir()] == ["r"]


@pytest.mark.parametrize("moment", ["before", "between"])
def test_killed(place, monkeypatch, moment):
    written(place, "old")
    (place / "mine").write_text("kept")

    def work():
        real = os.rename

        def rename(old, new):
            if moment == "before" or str(old).endswith(".part"):
                die()
            real(old, new)

        parts.os.rename = rename
        if moment == "before":
            parts._exchange = die
        written(place, "new")

    killed = in_child(work) == -signal.SIGKILL
    recover(place)
    assert (place / "a").read_text() == ("old" if killed else "new")
    written(place, "third")
    assert [x.name for x in place.parent.iterdir()] == ["r"]
    assert (place / "a").read_text() == "third" and (place / "mine").read_text() == "kept"


def test_a_living_writer_is_left_alone(tmp_path):
    place = tmp_path / "r"
    with replaced_folder(place, OURS) as part:
        (part / "a").write_text("first")
        in_child(lambda: written(place, "second"))
        assert (part / "a").read_text() == "first" and (place / "a").read_text() == "second"
    assert (place / "a").read_text() == "first"


def test_unfinished_files(tmp_path):
    """Folders of dead writers go; a file of somebody with such a name stays."""
    (tmp_path / "film.part").write_text("mine")
    (tmp_path / ".tmpabc123").write_text("mine")

    def work():
        parts.sync = die
        from ekpnet_fast.storage import files

        files.sync = die
        write_text(tmp_path / "x", "text")

    assert in_child(work) == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 3
    remove_unfinished(tmp_path)
    assert sorted(x.name for x in tmp_path.iterdir()) == [".tmpabc123", "film.part"]


def test_places(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert place_of(tmp_path / "link") == tmp_path / "real"
    monkeypatch.chdir(tmp_path)
    for wrong in (tmp_path, tmp_path / "a\0b", tmp_path.anchor):
        with pytest.raises(ConfigError):
            place_of(type(tmp_path)(wrong))
