"""How many threads, from made-up machines: masks, cgroups of both versions, containers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ekpnet_fast.errors import ConfigError
from ekpnet_fast.native import cpus
from support.places import ROOT

V2 = "31 23 0:27 {top} {at} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "32 31 0:29 {top} {at} rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
OTHERS = (
    "23 1 0:21 / / rw - ext4 /dev/root rw\n"
    "33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
)
HERE = "/sys/fs/cgroup"


@pytest.fixture(autouse=True)
def of_64(monkeypatch):
    """A machine of 64 CPUs, all of them allowed, without OpenMP's variables."""
    for name in ("OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    allow(monkeypatch, 64)


def allow(monkeypatch, count):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(count)), raising=False)


@pytest.fixture
def machine(tmp_path):
    """Writes the files of a machine: its cgroup, its mounts, and the rest by path."""

    def write(cgroup, mounts, files):
        for path, text in {
            "proc/self/cgroup": cgroup,
            "proc/self/mountinfo": OTHERS + mounts,
            **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
        }.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return tmp_path

    return write


def v2(quotas, path="/", top="/"):
    """Machine with version 2: the texts of `cpu.max` by folder below the mount."""
    files = {f"{folder}/cpu.max".lstrip("/"): text for folder, text in quotas.items()}
    return f"0::{path}\n", V2.format(top=top, at=HERE), files


def v1(quotas, path="/", top="/"):
    """Machine with version 1: quota and period by folder below the mount of the controller."""
    files = {}
    for folder, (quota, period) in quotas.items():
        files[f"cpu,cpuacct/{folder}/cpu.cfs_quota_us"] = quota
        files[f"cpu,cpuacct/{folder}/cpu.cfs_period_us"] = period
    cgroup = f"9:name=systemd:/user\n8:memory:/x\n3:cpuset:/y\n2:cpu,cpuacct:{path}\n"
    return cgroup, V1.format(top=top, at=f"{HERE}/cpu,cpuacct"), files


@pytest.mark.parametrize(
    ("quota", "count", "words"),
    [
        ("200000 100000\n", 2, "2 of 64 CPUs: the cgroup quota is 2 CPUs"),
        ("150000 100000\n", 2, "2 of 64 CPUs: the cgroup quota is 1.5 CPUs, rounded up"),
        ("250000 100000\n", 3, "3 of 64 CPUs: the cgroup quota is 2.5 CPUs, rounded up"),
        ("50000 100000\n", 1, "1 of 64 CPUs: the cgroup quota is 0.5 CPUs, rounded up"),
        ("1000 100000\n", 1, "1 of 64 CPUs: the cgroup quota is 0.01 CPUs, rounded up"),
        ("25000 10000\n", 3, "3 of 64 CPUs: the cgroup quota is 2.5 CPUs, rounded up"),
        ("6400000 100000\n", 64, "all 64 CPUs"),
        ("9900000 100000\n", 64, "all 64 CPUs"),
        ("max 100000\n", 64, "all 64 CPUs"),
    ],
)
def test_quota_of_version_2(machine, quota, count, words):
    root = machine(*v2({"": quota}))
    assert cpus.choose_threads(root=root) == cpus.Threads(count, words)


@pytest.mark.parametrize(
    ("quota", "period", "count"),
    [
        ("200000\n", "100000\n", 2),
        ("50000\n", "100000\n", 1),
        ("250000\n", "100000\n", 3),
        ("-1\n", "100000\n", 64),
        ("0\n", "100000\n", 64),
        ("200000\n", "0\n", 64),
    ],
)
def test_quota_of_version_1(machine, quota, period, count):
    root = machine(*v1({"": (quota, period)}))
    assert cpus.choose_threads(root=root).count == count


@pytest.mark.parametrize(
    ("quotas", "count"),
    [
        ({"": "max 100000", "a": "max 100000", "a/b": "300000 100000"}, 3),
        ({"a": "200000 100000", "a/b": "800000 100000"}, 2),  # what is above is shared
        ({"a": "800000 100000", "a/b": "max 100000"}, 8),
        ({"": "100000 100000", "a/b": "800000 100000"}, 1),
        ({"a": "500000 100000", "other": "100000 100000", "a/b/c": "100000 100000"}, 5),
    ],
)
def test_the_smallest_quota_on_the_way_up_counts(machine, quotas, count):
    root = machine(*v2(quotas, path="/a/b"))
    assert cpus.choose_threads(root=root).count == count
    assert cpus.cpu_quota(root).cpus == count


def test_the_folder_is_that_of_the_smallest_quota(machine):
    root = machine(*v2({"a": "200000 100000", "a/b": "800000 100000"}, path="/a/b"))
    assert cpus.cpu_quota(root) == cpus.Quota(2.0, root / "sys/fs/cgroup/a")


def test_version_1_has_quotas_above_too(machine):
    root = machine(*v1({"": ("-1", "100000"), "a": ("400000", "100000")}, path="/a/b"))
    assert cpus.choose_threads(root=root).count == 4


@pytest.mark.parametrize("kind", [v1, v2])
@pytest.mark.parametrize(
    ("path", "top"),
    [
        ("/", "/"),  # a namespace of its own
        ("/docker/4f", "/docker/4f"),  # none: the name from outside, its own cgroup mounted
        ("/docker/4f", "/"),  # the folder of that name is not to be seen
        ("/docker/4f", "/kubepods/pod7"),  # neither is what is mounted
        ("/../../4f", "/"),  # beside the namespace
        ("/", "/../.."),  # mounted from outside
    ],
)
def test_in_a_container(machine, kind, path, top):
    quota = "300000 100000" if kind is v2 else ("300000", "100000")
    root = machine(*kind({"": quota}, path=path, top=top))
    assert cpus.choose_threads(root=root).count == 3


def test_below_the_mount_of_a_container(machine):
    quotas = {"": "max 100000", "x": "200000 100000", "docker/4f/x": "100000 100000"}
    root = machine(*v2(quotas, path="/docker/4f/x", top="/docker/4f"))
    assert cpus.choose_threads(root=root).count == 2


@pytest.mark.parametrize(("one", "two", "count"), [(3, 5, 3), (6, 5, 5), (-1, 5, 5), (3, None, 3)])
def test_hybrid_has_both_versions(machine, one, two, count):
    cgroup, mounts, files = v1({"": (str(one * 100000), "100000")})
    if two is not None:
        files["unified/cpu.max"] = f"{two * 100000} 100000"
    mounts += V2.format(top="/", at=f"{HERE}/unified")
    root = machine(cgroup + "0::/\n", mounts, files)
    assert cpus.choose_threads(root=root).count == count


def test_a_mount_with_a_space_in_its_name(machine):
    mounts = V2.format(top=r"/my\040pod", at=HERE + r"/a\040b")
    root = machine("0::/my pod\n", mounts, {"a b/cpu.max": "200000 100000"})
    assert cpus.choose_threads(root=root).count == 2


@pytest.mark.parametrize(
    "text",
    ["", "\n", "2", "max", "max max", "a b", "-1 100000", "200000 0", "1 2 3", "9" * 400 + " 1"],
)
def test_a_quota_that_is_none_is_ignored(machine, text):
    root = machine(*v2({"": text}))
    assert cpus.choose_threads(root=root) == cpus.Threads(64, "all 64 CPUs")


@pytest.mark.parametrize("mounts", ["", "nonsense", "1 2 3\n - cgroup2\n", " - \n - - -\n"])
@pytest.mark.parametrize("cgroup", ["", "nonsense", "0::\n", "::\n", "1:cpu\n", "0\n:cpu:/a\n"])
def test_files_that_are_malformed_are_ignored(machine, cgroup, mounts):
    root = machine(cgroup, mounts, {"cpu.max": "100000 100000"})
    assert cpus.choose_threads(root=root).count == 64


def test_bytes_that_are_no_text_are_ignored(machine):
    root = machine(*v2({"": "max 100000"}))
    for path in ("proc/self/cgroup", "proc/self/mountinfo"):
        (root / path).write_bytes(b"\xff\x00\xfe\n")
    assert cpus.choose_threads(root=root).count == 64


def test_a_machine_without_proc(tmp_path):
    assert cpus.choose_threads(root=tmp_path) == cpus.Threads(64, "all 64 CPUs")
    assert cpus.cpu_quota(tmp_path) is None


def test_affinity(monkeypatch, tmp_path):
    allow(monkeypatch, 2)
    found = cpus.choose_threads(root=tmp_path)
    assert found == cpus.Threads(2, "2 of 64 CPUs: the affinity mask")


@pytest.mark.parametrize(
    ("allowed", "quota", "expected"),
    [
        (8, "1200000", cpus.Threads(8, "8 of 64 CPUs: the affinity mask")),
        (8, "300000", cpus.Threads(3, "3 of 64 CPUs: the cgroup quota is 3 CPUs")),
        (2, "150000", cpus.Threads(2, "2 of 64 CPUs: the cgroup quota is 1.5 CPUs, rounded up")),
    ],
)
def test_the_smaller_of_mask_and_quota(monkeypatch, machine, allowed, quota, expected):
    allow(monkeypatch, allowed)
    root = machine(*v2({"": f"{quota} 100000"}))
    assert cpus.choose_threads(root=root) == expected


def test_without_masks_as_on_a_mac(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert cpus.choose_threads(root=tmp_path).count == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpus.choose_threads(root=tmp_path) == cpus.Threads(1, "the only CPU")


@pytest.mark.parametrize("name", ["OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY"])
def test_a_mask_of_openmp_is_not_that_of_the_process(monkeypatch, tmp_path, name):
    allow(monkeypatch, 1)
    monkeypatch.setenv(name, "cores")
    assert cpus.choose_threads(root=tmp_path).count == 64


@pytest.mark.parametrize(
    ("text", "count"),
    [("3", 3), ("96", 96), (" 4 ", 4), ("4,2", 4)]
    + [(text, 2) for text in ("", "0", "-1", "many", "2.5", "٣", "99999", ",", "1024x")],
)
def test_omp_num_threads_is_the_users_word(monkeypatch, machine, text, count):
    root = machine(*v2({"": "200000 100000"}))
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    found = cpus.choose_threads(root=root)
    assert found.count == count
    assert found.reason.startswith("2 of 64" if count == 2 else f"OMP_NUM_THREADS is {count}")
    assert cpus.usable_cpus(root).count == 2  # the CPUs are as many as before


def test_the_option_comes_before_all(monkeypatch, machine):
    root = machine(*v2({"": "200000 100000"}))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert cpus.choose_threads(7, root) == cpus.Threads(7, "--threads")
    assert str(cpus.choose_threads(7, root)) == "7 threads (--threads)"
    assert str(cpus.choose_threads(1, root)) == "1 thread (--threads)"


@pytest.mark.parametrize("given", [0, -3, 1025])
def test_numbers_that_are_refused(given):
    with pytest.raises(ConfigError, match=f"--threads is {given}, expected 1 to 1024"):
        cpus.choose_threads(given)


def test_importing_the_package_leaves_torch_alone():
    """What a program set before or after counts, whatever the machine allows."""
    code = (
        "import torch; torch.set_num_threads(5); import ekpnet_fast, ekpnet_fast.ops;"
        "from ekpnet_fast import Recommender; from ekpnet_fast.runs import run;"
        "print(torch.get_num_threads())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "5\n"
