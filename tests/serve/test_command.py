"""`python -m ekpnet_fast.serve`: what it prints, how it starts, ends and refuses."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
from contextlib import suppress

import httpx
import pytest

from benchmarks.programs.web_server import Served
from ekpnet_fast import cli
from ekpnet_fast.native.cpus import usable_cpus
from ekpnet_fast.serve import __main__ as command
from support.programs import PATIENCE


@pytest.fixture(scope="module")
def folder(recommender, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "cinema"
    recommender.save(folder)
    return folder


def refused(capsys, *arguments):
    """The error of a command that must end in one."""
    assert command.main([str(word) for word in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serves_until_it_is_told_to_stop(folder, recommender, number):
    with Served(folder, "--threads", "1") as served:
        assert served.said.startswith("ekpnet on cinema, 1 thread (--threads): http://127.0.0.1:")
        answer = httpx.post(
            f"{served.address}/recommend", json={"user": "ann", "k": 2}, timeout=PATIENCE
        )
        best = recommender.recommend("ann", k=2)
        assert [item["item"] for item in answer.json()["items"]] == [item.item for item in best]
        assert httpx.get(f"{served.address}/health", timeout=PATIENCE).json()["threads"] == 1
        assert served.stop(number) == 0
        assert served.lines.get(timeout=PATIENCE) == "stopped\n"
        assert served.errors == []


def test_as_many_requests_compute_at_a_time_as_there_are_cpus(folder, monkeypatch):
    """OMP_NUM_THREADS is about the threads of one request, which has one anyway."""
    cpus = usable_cpus()
    monkeypatch.setenv("OMP_NUM_THREADS", str(cpus.count + 1))
    with Served(folder) as served:
        assert f", {cpus}: http://" in served.said
        found = httpx.get(f"{served.address}/health", timeout=PATIENCE).json()
        assert found["threads"] == cpus.count


def test_a_request_under_way_is_answered_before_the_end(folder):
    body = b'{"user": "ann"}'
    with Served(folder) as served:
        port = int(served.address.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
            head = f"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode())
            while httpx.get(f"{served.address}/health", timeout=PATIENCE).status_code != 200:
                time.sleep(0.01)
            served.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            connection.sendall(body)
            answer = connection.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 200")
        assert served.process.wait(PATIENCE) == 0


def test_broken_clients_leave_it_up(folder):
    with Served(folder, "--threads", "1", "--queue", "2") as served:
        port = int(served.address.rsplit(":", 1)[1])
        for raw in (
            b"nonsense\r\n\r\n",
            b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
            b"POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{",  # leaves
            b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"\x00" * 1000,
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
                connection.sendall(raw)
                connection.shutdown(socket.SHUT_WR)
                with suppress(ConnectionResetError):  # as good an answer to that as any
                    connection.recv(1 << 16)
        statuses = []

        def ask():
            answer = httpx.post(
                f"{served.address}/recommend", json={"user": "ann"}, timeout=PATIENCE
            )
            statuses.append(answer.status_code)

        askers = [threading.Thread(target=ask) for _ in range(24)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join(PATIENCE)
        assert len(statuses) == 24 and set(statuses) <= {200, 503} and 200 in statuses
        assert httpx.get(f"{served.address}/health", timeout=PATIENCE).json()["status"] == "ok"


def test_another_address_is_warned_about(folder):
    with Served(folder, "--host", "0.0.0.0", "--allow-host", "Films.Example") as served:
        port = served.address.rsplit(":", 1)[1]
        address = f"http://127.0.0.1:{port}/health"
        assert (
            httpx.get(address, headers={"host": "films.example"}, timeout=PATIENCE).status_code
            == 200
        )
        assert (
            httpx.get(address, headers={"host": "other.example"}, timeout=PATIENCE).status_code
            == 421
        )
        served.stop()
        assert "warning: bound to 0.0.0.0" in "".join(served.errors)


def test_a_port_that_is_taken(capsys, folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = refused(capsys, folder, "--port", port)
    assert f"--host 127.0.0.1 --port {port}: cannot be bound (Address already in use)" in found


def test_what_cannot_be_served(capsys, tmp_path):
    assert "found neither recommender.json nor" in refused(capsys, tmp_path, "--port", "0")
    found = refused(capsys, tmp_path, "--port", "0", "--host", "192.0.2.1")
    assert "expected an address of this machine" in found


@pytest.mark.parametrize(
    "options",
    [
        ["--port", "70000"],
        ["--port", "x"],
        ["--threads", "0"],
        ["--queue", "-1"],
        ["--timeout", "0"],
    ],
)
def test_bad_options(capsys, tmp_path, options):
    with pytest.raises(SystemExit) as stop:
        command.main([str(tmp_path), *options])
    assert stop.value.code == 2
    assert f"argument {options[0]}: found '{options[1]}', expected" in capsys.readouterr().err


def test_without_the_extra(capsys, monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "ekpnet_fast.serve.server", raising=False)
    found = refused(capsys, folder, "--port", "0")
    assert "pip install 'ekpnet_fast[serve]'" in found


def test_it_is_a_command_of_ekpnet(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["serve", "--help"])
    assert stop.value.code == 0
    assert "RUN" in capsys.readouterr().out


def _answer(address, *parts):
    """First bytes of what a server says to raw bytes."""
    host, port = address.removeprefix("http://").rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        with suppress(OSError):  # it may be closed before all is sent
            for part in parts:
                connection.sendall(part)
        with suppress(OSError):
            return connection.recv(200)
    return b""


def test_headers_have_limits(folder):
    start = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
    with Served(folder, "--threads", "1") as served:
        long = [start + b"X: ", *[b"a" * (1 << 16)] * 4, b"\r\n\r\n"]
        assert not _answer(served.address, *long).startswith(b"HTTP/1.1 200")
        assert _answer(served.address, start, b"\r\n").startswith(b"HTTP/1.1 200")
        twice = _answer(served.address, start, b"Host: other\r\n\r\n")
        assert twice.startswith(b"HTTP/1.1 400") or b"400" in twice
        for name in (b"localhost:evil.example", b"[::1].evil.example"):
            found = _answer(served.address, b"GET /health HTTP/1.1\r\nHost: " + name + b"\r\n\r\n")
            assert found.startswith(b"HTTP/1.1 421")


def test_connections_that_say_nothing_keep_nobody_out(folder):
    with Served(folder, "--threads", "1") as served:
        host, port = served.address.removeprefix("http://").rsplit(":", 1)
        open_ones = []
        try:
            for _ in range(1200):
                with suppress(OSError):
                    half = socket.create_connection((host, int(port)), timeout=PATIENCE)
                    half.sendall(b"GET /health HT")
                    open_ones.append(half)
            assert httpx.get(f"{served.address}/health", timeout=PATIENCE).status_code == 200
        finally:
            for half in open_ones:
                half.close()
