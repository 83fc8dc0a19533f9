"""setup.py: builds in one source folder, whatever earlier builds have left in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile

import pytest

from support.places import ROOT

# In place of the native code: files that take no compiler. kept.txt stands for an object file,
# which another build must not make again.
CMAKE = """
cmake_minimum_required(VERSION 3.25)
project(native LANGUAGES NONE)
add_custom_command(OUTPUT kept.txt COMMAND ${CMAKE_COMMAND} -E touch kept.txt)
add_custom_target(all_of_it ALL DEPENDS kept.txt)
file(WRITE ${CMAKE_BINARY_DIR}/_module.so "${Python_EXECUTABLE}")
install(FILES ${CMAKE_BINARY_DIR}/_module.so DESTINATION .)
"""
FILES = {"__init__.py", "_module.so"}


@pytest.fixture
def source(tmp_path):
    """A source folder with the project's own setup.py."""
    if shutil.which("cmake") is None or shutil.which("ninja") is None:
        pytest.skip("no cmake or ninja here")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "CMakeLists.txt").write_text(CMAKE)
    package = tmp_path / "ekpnet_fast"
    package.mkdir()
    for name in ("__init__.py", "moved.py"):
        (package / name).touch()
    return tmp_path


def wheel_of(source):
    """The names of the files in the wheel that pip would install."""
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "bdist_wheel"],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if name.startswith("ekpnet_fast/")}


def test_wheel_holds_what_was_built(source):
    assert wheel_of(source) == {f"ekpnet_fast/{name}" for name in FILES | {"moved.py"}}


def test_what_the_source_no_longer_has_is_not_installed(source):
    wheel_of(source)
    room = source / "ekpnet_fast" / "room"
    room.mkdir()
    (room / "__init__.py").touch()
    (source / "ekpnet_fast" / "moved.py").rename(room / "moved.py")
    # As an editable installation of an older version leaves it.
    (source / "ekpnet_fast" / "libekpnet_old.so").touch()
    moved = {"room/__init__.py", "room/moved.py"}
    assert wheel_of(source) == {f"ekpnet_fast/{name}" for name in FILES | moved}


def test_tools_of_a_deleted_environment_are_forgotten(source):
    wheel_of(source)
    native = source / "build" / "native"
    kept = native / "kept.txt"
    before = kept.stat().st_mtime_ns
    cache = native / "CMakeCache.txt"
    text = cache.read_text()
    for name in ("CMAKE_MAKE_PROGRAM:FILEPATH", "Python_EXECUTABLE:FILEPATH"):
        here = next((line for line in text.splitlines() if line.startswith(name)), None)
        if here is not None:
            text = text.replace(here, f"{name}=/tmp/pip-build-env-gone/bin/tool")
    cache.write_text(text)
    wheel_of(source)
    assert "pip-build-env-gone" not in cache.read_text()
    assert kept.stat().st_mtime_ns == before  # what was built is kept


def test_build_goes_on_where_another_was_cut_off(source):
    wheel_of(source)
    native = source / "build" / "native"
    (native / "CMakeCache.txt").write_text("CMAKE_MAKE_PRO")
    (native / "build.ninja").write_text("rule C")
    shutil.rmtree(source / "dist")
    assert wheel_of(source) == {f"ekpnet_fast/{name}" for name in FILES | {"moved.py"}}
