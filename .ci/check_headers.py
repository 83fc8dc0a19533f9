"""Whether the native code compiles where it says it does, told in seconds and without a build.

Every binding is compiled against the headers of the oldest torch that pyproject.toml allows, and
every header alone, so that none leans on what others happen to include before it. Nothing is
generated: only the compiler's front end runs. Prints the files that fail, with the first error.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CXX = os.environ.get("CXX", "c++")


def oldest_torch() -> str:
    """The lower bound of torch, as pyproject.toml's build requirement says it."""
    found = re.search(r'"torch>=(\d+\.\d+)', (ROOT / "pyproject.toml").read_text())
    assert found, "pyproject.toml has no lower bound of torch"
    return f"{found[1]}.0"


def torch_headers(version: str) -> Path:
    """Torch's include folder; of the wheel for macOS, the smallest one, since headers are alike."""
    folder = ROOT / "build" / f"torch-{version}-headers"
    if not folder.exists():
        with tempfile.TemporaryDirectory() as downloads:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            wheel = ["--only-binary=:all:", "--platform", "macosx_11_0_arm64"]
            python = ["--python-version", "3.11", "--dest", downloads]
            subprocess.run([*pip, *wheel, *python, f"torch=={version}"], check=True)
            unpacked = folder.with_name(f"{folder.name}-{os.getpid()}")
            with zipfile.ZipFile(next(Path(downloads).glob("*.whl"))) as archive:
                names = [name for name in archive.namelist() if name.startswith("torch/include/")]
                archive.extractall(unpacked, names)
            unpacked.rename(folder)
    return folder / "torch" / "include"


def commands(torch: Path, nvcc: str | None) -> list[tuple[Path, list[str]]]:
    """What is compiled, and how; files of CUDA twice where there is a toolkit."""
    cmake = (ROOT / "CMakeLists.txt").read_text()
    target = re.search(r"TORCH_TARGET_VERSION=\w+", cmake)
    assert target, "CMakeLists.txt does not set TORCH_TARGET_VERSION"
    common = ["-std=c++20", "-Icsrc", "-isystem", torch, "-DTORCH_STABLE_ONLY", f"-D{target[0]}"]
    common += ["-DEKPNET_ISA=generic", "-DEKPNET_VECTOR_BYTES=16", "-DEKPNET_COMMON_WIDTHS=0"]
    host = [CXX, "-fsyntax-only", "-w", *common]
    emulated = [*host, "-DEKPNET_EMULATED", "-Itests/csrc"]
    # nvcc hands C++ to the host's compiler, with the toolkit's headers in sight.
    toolkit = [nvcc, "-w", *common, "-DUSE_CUDA", '-DEKPNET_CUDA_ARCHS="none"', "-o", os.devnull]
    real = [*toolkit, "-c", "-Xcompiler", "-fsyntax-only"]
    device = [*toolkit, "--cuda"]  # a header alone has no kernels to generate

    csrc = ROOT / "csrc"
    bindings = [csrc / "library.cpp", *(csrc / "bindings").glob("*.cpp")]
    jobs: list[tuple[Path, list[Any]]] = []
    for path in sorted([*bindings, *csrc.rglob("*.h"), *csrc.rglob("*.cuh")]):
        source = [path] if path in bindings else ["-include", path, os.devnull]
        host_source = ["-x", "c++", *source]
        if "cuda" not in str(path.relative_to(csrc)):
            jobs.append((path, [*host, *host_source]))
            continue
        jobs.append((path, [*emulated, *host_source]))
        if nvcc and path.suffix == ".cuh":
            jobs.append((path, [*device, "-x", "cu", *source]))
        elif nvcc:
            jobs.append((path, [*real, *host_source]))
    return [(path, [str(word) for word in command]) for path, command in jobs]


def main() -> int:
    """Compile everything; 1 if something fails."""
    version, nvcc = oldest_torch(), shutil.which("nvcc")

    def compiled(job: tuple[Path, list[str]]) -> str | None:
        path, command = job
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return None
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        how = "on the emulated GPU" if "-DEKPNET_EMULATED" in command else f"by {command[0]}"
        return f"{path.relative_to(ROOT)} ({how}): {(errors or [done.stderr.strip()])[0]}"

    jobs = commands(torch_headers(version), nvcc)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        failures = [failure for failure in pool.map(compiled, jobs) if failure]
    print(*failures, sep="\n", end="\n" if failures else "")
    files = len({path for path, _ in jobs})
    print(f"{files} files against torch {version}, {len(failures)} failures")
    if nvcc is None:
        print("no nvcc: files of CUDA were compiled for the emulated GPU alone")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
