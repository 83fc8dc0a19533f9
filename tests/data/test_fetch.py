"""Downloading and verifying public files; nothing here leaves this machine."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ekpnet_fast.data import fetch as fetching
from ekpnet_fast.data.__main__ import main
from ekpnet_fast.data.fetch import REMOTES, Remote, fetch, git_blob_sha1
from ekpnet_fast.errors import ConfigError, DataError
from support.programs import PATIENCE

FILES = {"ratings.dat": b"1::2::3::4\n", "kg.txt": b"0\tmade by\t1\n"}
HASHES = {
    # printf '1::2::3::4\n' | git hash-object --stdin, and so on
    "ratings.dat": "5b4fad1920ddf55d7d8f1a473b306e2fd6022078",
    "kg.txt": "33d073f6179d21906d8ea69ed4855a2f627039a1",
}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def served(tmp_path):
    """A folder of files, and the address where it is served."""
    folder = tmp_path / "served"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_hash_is_git_s(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
        assert git_blob_sha1(tmp_path / name) == HASHES[name]


def test_downloads_what_is_missing(served, tmp_path):
    pytest.importorskip("pooch")
    _, address = served
    remote = Remote(address, HASHES, "")
    folder = tmp_path / "here"
    assert [line.split(": ")[1] for line in fetch("tiny", folder, remote)] == [
        "downloaded, verified",
        "downloaded, verified",
    ]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    (folder / "kg.txt").unlink()
    lines = fetch("tiny", folder, remote)
    assert "there already, verified" in lines[0] and "downloaded" in lines[1]


@pytest.mark.parametrize("content", [FILES["kg.txt"][:-3], b"<html>not found</html>"])
def test_wrong_content_is_not_kept(content, served, tmp_path):
    pytest.importorskip("pooch")
    source, address = served
    (source / "kg.txt").write_bytes(content)
    folder = tmp_path / "here"
    with pytest.raises(DataError) as caught:
        fetch("tiny", folder, Remote(address, HASHES, ""))
    assert f"{address}/kg.txt: " in str(caught.value)
    assert f"found {len(content)} bytes" in str(caught.value)
    assert f"expected {HASHES['kg.txt']}" in str(caught.value)
    assert "it was not kept" in str(caught.value)
    assert [path.name for path in folder.iterdir()] == ["ratings.dat"]


def test_no_such_file(served, tmp_path):
    pytest.importorskip("pooch")
    source, address = served
    (source / "kg.txt").unlink()
    with pytest.raises(DataError, match=r"kg.txt cannot be downloaded \(404.*place kg.txt from"):
        fetch("tiny", tmp_path / "here", Remote(address, HASHES, ""))


def test_without_a_network_the_message_says_what_to_place_where(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pooch")
    with socket.socket() as taken:  # bound but not listening: a connection is refused
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setitem(fetching.REMOTES, "book-crossing", Remote(address, HASHES, "terms"))
        assert main(["fetch", "book-crossing", "--data-root", str(tmp_path)]) == 2
        shown = capsys.readouterr().err
        place = tmp_path / "book-crossing" / "raw"
        assert f"place ratings.dat, kg.txt from {address} in {place} by hand" in shown
        assert "python -m ekpnet_fast.data fetch book-crossing" in shown
        assert len(shown.splitlines()) == 1
        # Placed by hand they are verified, and nothing is downloaded.
        for name, content in FILES.items():
            (place / name).write_bytes(content)
        monkeypatch.setenv("EKPNET_DATA", str(tmp_path))
        assert main(["fetch", "book-crossing"]) == 0
        shown = capsys.readouterr().out
        assert shown.count("there already, verified") == 2 and "terms" in shown
        assert "--dataset book-crossing/raw" in shown
        (place / "kg.txt").write_bytes(FILES["kg.txt"][:5])
        assert main(["fetch", "book-crossing"]) == 2
        assert "found 5 bytes with git blob SHA-1" in capsys.readouterr().err


def test_pooch_is_needed_only_for_downloads(tmp_path):
    code = (
        "import sys; sys.modules['pooch'] = None\n"
        "from ekpnet_fast.data.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "fetch", "movielens-1m", "--data-root", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 2
    assert "pip install 'ekpnet_fast[fetch]'" in done.stderr
    assert "place ratings.dat, kg_part1_rehashed.txt" in done.stderr


def test_data_root_is_needed(monkeypatch, capsys):
    monkeypatch.delenv("EKPNET_DATA", raising=False)
    assert main(["fetch", "movielens-1m"]) == 2
    assert "expected --data-root DIR or EKPNET_DATA" in capsys.readouterr().err


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")

    def download(url, part):
        part.write_bytes(FILES["kg.txt"])

    with pytest.raises(ConfigError, match="cannot be written"):
        fetch("tiny", tmp_path / "file", Remote("http://x", HASHES, ""), download)


def test_hashes_are_hashes():
    for remote in REMOTES.values():
        assert all(len(value) == 40 and int(value, 16) for value in remote.hashes.values())
