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
@pytest.mark.parametrize("each", [1, 2])
def test_two_hosts_train_as_one_process_and_send_what_the_formula_says(hosts, threads, each):
    threads(1)
    places = [name for name in hosts for _ in range(each)]
    running = [
        subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, str(SUPPORT / "host_run.py"), name],
            cwd=ROOT,
            env={
                **os.environ,
                **{"RANK": str(rank), "WORLD_SIZE": str(2 * each), "EKPNET_WAIT": "60"},
                **{"LOCAL_WORLD_SIZE": str(each), "GLOO_SOCKET_IFNAME": name},
                **{"MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": "29400"},
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, name in enumerate(places)
    ]
    try:
        alone = host_run.trained(loop.train(*host_run.data(), validate=False))
        said = [process.communicate(timeout=120) for process in running]
    finally:
        for process in running:
            process.kill()
    formulas = dict.fromkeys(hosts, 0.0)
    counters = dict.fromkeys(hosts, 0)
    for name, process, (out, err) in zip(places, running, said, strict=True):
        assert process.returncode == 0, err
        trained, steps, sent, formula, counted = json.loads(out)
        assert trained == list(alone)
        assert steps > 10
        if each == 1:
            assert counted == pytest.approx(formula, rel=0.05)
        formulas[name] += formula
        counters[name] = sent
    # What processes of the same host send to each other does not pass its interface.
    for name, sent in counters.items():
        assert sent == pytest.approx(formulas[name], rel=0.05)
