"""Thin driver: hands the build to CMake, which alone knows the sources and the flags."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
NATIVE = ROOT / "build" / "native"  # CMake's, for every Python


class CleanBuild(build):
    """A build whose output folders start empty.

    What setuptools finds in them goes into the wheel, also modules that the source no longer has.
    """

    def run(self) -> None:
        """Remove what earlier builds left there, then build."""
        for folder in (Path(self.build_lib), *Path(self.build_base).glob("bdist.*")):
            shutil.rmtree(folder, ignore_errors=True)
        super().run()


class CMakeBuild(build_ext):
    """Builds every CMake target and puts the native files beside the Python files."""

    def build_extension(self, ext: Extension) -> None:
        """Configure anew, build what changed, install into the package."""
        package_dir = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        debug = self.debug or os.environ.get("DEBUG", "0") not in ("", "0")
        forget_configuration()
        configure = [
            "cmake",
            *("-S", str(ROOT), "-B", str(NATIVE), "-G", "Ninja"),
            f"-DCMAKE_BUILD_TYPE={'Debug' if debug else 'Release'}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DEKPNET_TORCH_INCLUDE={headers_of('torch')}",
            f"-DEKPNET_PYBIND11_INCLUDE={headers_of('pybind11')}",
            f"-DEKPNET_CUDA={os.environ.get('EKPNET_CUDA', 'AUTO')}",
            *os.environ.get("CMAKE_ARGS", "").split(),
        ]
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(NATIVE)], check=True)
        places = [package_dir]
        if self.editable_mode:  # setuptools itself copies the module there, not the libraries
            places.append(ROOT / "ekpnet_fast")
        for place in places:
            subprocess.run(["cmake", "--install", str(NATIVE), "--prefix", place], check=True)


def forget_configuration() -> None:
    """Remove what CMake found out about the machine the last time, but not what it compiled.

    The tools may have been those of an isolated environment, which pip deletes after a build.
    """
    (NATIVE / "CMakeCache.txt").unlink(missing_ok=True)
    for folder in (NATIVE / "CMakeFiles").glob("[0-9]*"):
        shutil.rmtree(folder)


def headers_of(package: str) -> Path:
    """A copy of a package's headers, kept because those of an isolated environment come and go.

    They would be new files at a new place every time, and all that includes them compiled again.
    """
    spec = find_spec(package)
    if spec is None and package == "pybind11":
        return headers_of("torch")  # which ships pybind11's with its own
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"building needs {package}; install it, or build with pip's isolation"
        )
    kept = NATIVE / f"{package}-{version(package)}"
    if not kept.exists():
        for other in NATIVE.glob(f"{package}-*"):
            shutil.rmtree(other)
        partial = NATIVE / f"{package}-{os.getpid()}.partial"
        shutil.copytree(Path(spec.submodule_search_locations[0]) / "include", partial)
        partial.rename(kept)
    return kept


setup(
    ext_modules=[Extension("ekpnet_fast._module", sources=[])],
    cmdclass={"build": CleanBuild, "build_ext": CMakeBuild},
)
