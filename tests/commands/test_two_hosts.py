"""Training by two hosts: network namespaces with a cable between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ekpnet_fast.training import loop
from support import host_run
from support.places import ROOT, SUPPORT

ADDRESSES = ("10.213.0.1", "10.213.0.2")


def ip(*words):
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=30)


@pytest.fixture
def hosts():
    """Names of two namespaces; the interface of each has its name."""
    names = [f"ekp{os.getpid()}{side}" for side in "ab"]
    made = []
    try:
        for name in names:
            ip("netns", "add", name)
            made.append(name)
        ends = [[side, "netns", side] for side in names]
        ip("link", "add", *ends[0], "type", "veth", "peer", "name", *ends[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", name)
            for interface in ("lo", name):
                ip("-n", name, "link", "set", interface, "up")
    except (OSError, subprocess.CalledProcessError) as error:
        for name in made:
            ip("netns", "delete", name)
        pytest.skip(f"network namespaces cannot be made here ({error})")
    yield names
    for name in made:
        ip("netns", "delete", name)


@pytest.mark.slow
def test_two_hosts_train_as_one_process_and_send_what_the_formula_says(hosts, threads):
    threads(1)
    running = [
        subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, str(SUPPORT / "host_run.py"), name],
            cwd=ROOT,
            env={
                **os.environ,
                **{"RANK": str(rank), "WORLD_SIZE": "2", "EKPNET_WAIT": "60"},
                **{"MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": "29400"},
                "GLOO_SOCKET_IFNAME": name,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, name in enumerate(hosts)
    ]
    try:
        alone = host_run.trained(loop.train(*host_run.data(), validate=False))
        said = [process.communicate(timeout=120) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (out, err) in zip(running, said, strict=True):
        assert process.returncode == 0, err
        trained, steps, sent, formula, counted = json.loads(out)
        assert trained == list(alone)
        assert steps > 10
        assert counted == pytest.approx(formula, rel=0.05)
        assert sent == pytest.approx(formula, rel=0.05)
