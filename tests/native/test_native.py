"""The native build: the torch-free C++ tests, what CMake refuses, build facts, broken files."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ekpnet_fast
from ekpnet_fast import build_info, cuda_kernels
from support.places import PACKAGE, ROOT, module_of
from support.programs import PATIENCE, tool


def run(command, folder=None, **changes):
    """Run a command with changes to the environment; None unsets a variable."""
    environment = {key: value for key, value in os.environ.items() if key not in changes}
    environment.update({key: str(value) for key, value in changes.items() if value is not None})
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def configure(build, *options, **changes):
    compiler = os.environ.get("CXX") or tool("c++", "g++", "clang++")
    command = [tool("cmake"), "-S", ROOT, "-B", build, "-G", "Ninja"]
    tools = [f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", f"-DCMAKE_CXX_COMPILER={compiler}"]
    return run([*command, *tools, *options], **changes)


def words(text):
    """CMake breaks its messages at any blank."""
    return " ".join(text.split())


# ---- the torch-free layer ------------------------------------------------------------------------


@pytest.mark.slow
def test_compute_layer_without_torch(tmp_path):
    """Under sanitizers; without them the tests of the ops and those for 64-bit Arm run it."""
    done = configure(
        tmp_path,
        "-DEKPNET_PYTHON_MODULES=OFF",
        "-DEKPNET_TESTS=ON",
        "-DEKPNET_SANITIZE=address,undefined",
        # Less optimised, because sanitized code takes the compiler several times as long.
        "-DCMAKE_CXX_FLAGS_RELEASE=-O1",
    )
    assert done.returncode == 0, done.stderr
    commands = json.loads((tmp_path / "compile_commands.json").read_text())
    sources = {Path(command["file"]).name for command in commands}
    assert {"ripple_attention.cpp", "ripple_sampler.cpp", "test_compute.cpp"} <= sources
    assert not any("torch" in command["command"] for command in commands)

    done = run([tool("cmake"), "--build", tmp_path])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning:" not in done.stdout + done.stderr
    done = run(
        [tool("ctest"), "--test-dir", tmp_path, "--output-on-failure", "--no-tests=error"],
        UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if platform.machine() == "x86_64":
        assert all(f"compute_{isa}" in done.stdout for isa in ("generic", "avx2", "avx512"))
    assert "team" in done.stdout
    assert done.stdout.count("Passed") == 1 + len(build_info().isas_supported)


@pytest.mark.slow
def test_team_of_threads_has_no_race(tmp_path):
    options = ("-DEKPNET_PYTHON_MODULES=OFF", "-DEKPNET_TESTS=ON", "-DEKPNET_SANITIZE=thread")
    done = configure(tmp_path, *options)
    assert done.returncode == 0, done.stderr
    done = run([tool("cmake"), "--build", tmp_path, "--target", "test_team"])
    assert done.returncode == 0, done.stdout + done.stderr
    done = run([tool("ctest"), "--test-dir", tmp_path, "--output-on-failure", "-R", "^team$"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Passed" in done.stdout


def test_cmake_refuses_another_word_for_cuda(tmp_path):
    done = configure(tmp_path, "-DEKPNET_PYTHON_MODULES=OFF", "-DEKPNET_CUDA=nonsense")
    assert done.returncode != 0
    assert "EKPNET_CUDA is 'nonsense', expected ON, OFF or AUTO" in words(done.stderr)


def test_cuda_that_is_asked_for_must_be_there(tmp_path):
    # The folders of nvcc also hold other tools, so those that CMake needs are given by link.
    kept = tmp_path / "bin"
    kept.mkdir()
    for name in ("c++", "g++", "gcc", "cc", "ld", "as", "ar", "ranlib", "sh", "uname"):
        found = shutil.which(name)
        if found:
            (kept / name).symlink_to(found)
    if Path("/usr/local/cuda/bin/nvcc").exists() and shutil.which("nvcc") is None:
        pytest.skip("CMake finds an nvcc that is not on PATH")
    unset = {name: None for name in ("CUDACXX", "CUDA_PATH", "CUDA_HOME", "CUDAToolkit_ROOT")}
    done = configure(
        tmp_path / "build",
        "-DEKPNET_CUDA=ON",
        f"-DPython_EXECUTABLE={sys.executable}",
        PATH=str(kept),
        **unset,
    )
    if done.returncode == 0 or "CMAKE_CUDA_COMPILER=" in done.stderr:
        pytest.skip("CMake finds an nvcc that is not on PATH")
    assert "EKPNET_CUDA=ON, but no CUDA compiler (nvcc) was found" in words(done.stderr)


# ---- build facts ---------------------------------------------------------------------------------


def test_build_info():
    info = build_info()
    assert info.version == ekpnet_fast.__version__
    assert info.running_torch.split("+")[0] == torch.__version__.split("+")[0]
    assert info.built_for_torch.split(".")[0] == "2"
    assert info.compiler.split()[0] in ("GNU", "Clang", "AppleClang", "IntelLLVM")
    assert info.isas_built[0] == ("neon" if platform.machine() == "aarch64" else "generic")
    assert set(info.isas_supported) <= set(info.isas_built)
    assert info.isa in info.isas_supported
    # Either there are architectures and the compiler that made them, or a reason.
    assert bool(info.cuda_archs) == bool(info.cuda_compiler) == (info.cuda_reason == "")
    assert info.cuda_runtime in (("static", "shared") if info.cuda_archs else ("",))
    assert all(arch.startswith(("sm_", "compute_")) for arch in info.cuda_archs)


def test_cuda_library_takes_nothing_of_another_cuda():
    """Its runtime and CUB are its own: the loader neither finds nor gives them elsewhere."""
    info = build_info()
    if info.cuda_runtime != "static":
        pytest.skip(f"no CUDA library with its own runtime: {info.cuda_reason or 'it is shared'}")
    library = str(PACKAGE / "libekpnet_cuda.so")
    symbols = subprocess.run(
        [tool("nm"), "--dynamic", library], capture_output=True, text=True, check=True
    ).stdout
    of_cuda = re.findall(r" (?:(?:__)?cu(?:da)?[A-Z]|_Z\w*3cub\d)\w*", symbols)
    assert "aoti_torch_get_current_cuda_stream" in symbols and not of_cuda


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pad_kernel(Args, int)", "pad_kernel"),
        (
            "score_kernel<(Memory)0, 2, Rows<4, A> >(Args<A>, int)",
            "score_kernel<(Memory)0, 2, Rows<4, A> >",
        ),
    ],
)
def test_kernels_are_named_without_their_arguments(name, expected):
    report = module_of(str(ROOT / "csrc" / "cuda" / "report_resources.py"))
    assert report.without_arguments(name) == expected


def test_cuda_kernels_keep_everything_in_registers():
    info = build_info()
    if not info.cuda_archs:
        assert cuda_kernels() == []
        pytest.skip(f"no CUDA kernels: {info.cuda_reason}")
    kernels = cuda_kernels()
    # The list is whole: each architecture has the propagation for every specialised width.
    named = {(kernel.arch, kernel.kernel): kernel for kernel in kernels}
    for arch in (arch for arch in info.cuda_archs if arch.startswith("sm_")):
        for step in ("forward", "backward"):
            for storage, widths in (("float", (4, 8, 16, 32, 64)), ("Bf16", (16, 32, 64))):
                for width in widths:
                    small, _ = (
                        named[arch, f"ripple_attention_{step}_kernel<{width}, {rows}, {storage}>"]
                        for rows in (1, 4)
                    )
                    # Four blocks of 128 threads share the 65,536 of a multiprocessor.
                    assert small.registers <= 128
    local = [kernel for kernel in kernels if kernel.stack_bytes or kernel.spill_bytes]
    assert not local


def test_cuda_library_loads_beside_the_libraries_of_a_cuda_torch(tmp_path):
    """Every symbol is found, and the ops get kernels, where there is a torch_cuda to depend on."""
    info = build_info()
    if not info.cuda_archs:
        pytest.skip(f"no CUDA library: {info.cuda_reason}")
    if torch.version.cuda is not None:
        pytest.skip("torch has CUDA: importing the ops has loaded it")
    source = tmp_path / "torch_cuda.cpp"
    names = ("aoti_torch_get_current_cuda_stream", "torch_c10_cuda_check_msg")
    names = (*names, "torch_c10_cuda_free_error_msg")
    source.write_text("".join(f'extern "C" void {name}() {{}}\n' for name in names))
    library = tmp_path / "libtorch_cuda.so"
    options = ["-shared", "-fPIC", f"-Wl,-soname,{library.name}", "-o", library]
    done = run([tool("c++", "g++"), *options, source])
    assert done.returncode == 0, done.stderr
    code = (
        "import torch, ekpnet_fast.ops as ops\n"
        "from ekpnet_fast.native.build import HERE\n"
        "torch.ops.load_library(str(HERE / 'libekpnet_cuda.so'))\n"
        "has = torch._C._dispatch_has_kernel_for_dispatch_key\n"
        "names = ['ripple_attention', 'ripple_attention_backward', 'deep_score', 'triple_loss']\n"
        "names += ['row_adam_', 'top_items', 'ekpnet_gradients']\n"
        "print([has(f'ekpnet::{name}', 'CUDA') for name in names])"
    )
    done = python(code, LD_LIBRARY_PATH=tmp_path)
    if "libcudart" in done.stderr and "cannot open shared object file" in done.stderr:
        pytest.skip("the toolkit had no runtime to link in, and it is not where libraries are")
    assert done.stdout == f"{[True] * 7}\n", done.stderr


def python(code, path=PACKAGE.parent, *options, **changes):
    # Python looks in the working folder first, so that is where the package under test lies.
    changes = {"PYTHONPATH": str(path), **changes}
    return run([sys.executable, *options, "-c", code], path, **changes)


def last_line(done):
    """The one line that a user reads at the end of a traceback."""
    assert done.returncode == 1
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("isa", build_info().isas_supported)
def test_isa_is_forced(isa):
    code = "import ekpnet_fast; print(ekpnet_fast.build_info().isa)"
    assert python(code, EKPNET_CPU_ISA=isa).stdout == f"{isa}\n"


def test_unknown_isa():
    line = last_line(
        python("import ekpnet_fast; ekpnet_fast.build_info()", EKPNET_CPU_ISA="nonsense")
    )
    built = ", ".join(build_info().isas_built)
    assert line == (
        "ekpnet_fast.errors.NativeLibraryError: "
        f"EKPNET_CPU_ISA=nonsense: not built; expected one of {built}"
    )


# ---- broken files --------------------------------------------------------------------------------


@pytest.fixture
def copied(tmp_path):
    """The package, copied so that it can be broken."""
    target = tmp_path / "ekpnet_fast"
    shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def damage(library, how):
    if how == "missing":
        library.unlink()
    elif how == "truncated":
        library.write_bytes(library.read_bytes()[:-100])
    elif how == "headers only":
        library.write_bytes(library.read_bytes()[:4096])
    else:
        library.write_text("not a library\n")


@pytest.mark.parametrize("how", ["missing", "truncated", "headers only", "text"])
def test_broken_library(copied, how):
    library = copied / "libekpnet_cpu.so"
    damage(library, how)
    line = last_line(python("import ekpnet_fast.ops", copied.parent))
    info = build_info()
    versions = f"(built for torch {info.built_for_torch}, running torch {info.running_torch})"
    assert line.startswith("ekpnet_fast.errors.NativeLibraryError: ")
    assert f"{library} cannot be loaded {versions}: " in line
    assert "pip install" in line
    # The facts of the build need no ops, so a broken library can still be asked about.
    assert python("import ekpnet_fast as e; e.build_info()", copied.parent).returncode == 0


@pytest.mark.parametrize("how", ["missing", "text"])
def test_broken_module(copied, how):
    (module,) = copied.glob("_module*.so")
    damage(module, how)
    # -S: without installed packages, where a whole copy may lie.
    line = last_line(python("import ekpnet_fast as e; e.build_info()", copied.parent, "-S"))
    assert line.startswith(
        "ekpnet_fast.errors.NativeLibraryError: "
        f"the native module of ekpnet_fast in {copied} cannot be imported ("
    )
    assert f"for this Python {sys.version_info.major}.{sys.version_info.minor} " in line
    assert "pip install ." in line


def test_source_folder_takes_the_installed_native_files(tmp_path):
    source = tmp_path / "ekpnet_fast"
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    done = python(
        "import ekpnet_fast.ops; print(ekpnet_fast.__file__)", tmp_path, PYTHONPATH=PACKAGE.parent
    )
    assert done.stdout == f"{source / '__init__.py'}\n", done.stderr
