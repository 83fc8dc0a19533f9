"""Files that are written whole, and what is no file."""

from __future__ import annotations

import os
import threading

import pytest

from ekpnet_fast.errors import ConfigError
from ekpnet_fast.storage.files import write_text


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link"}


def test_a_pipe_is_written_to(tmp_path):
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "new")
    reader.join()
    assert found == ["new"] and pipe.is_fifo()


def test_a_folder_and_a_circle_are_refused(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path, tmp_path / "loop"):
        with pytest.raises(ConfigError, match="cannot be written"):
            write_text(path, "new")
