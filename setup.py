"""Thin driver: hands the build to CMake, which alone knows the sources and the flags."""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """Builds every CMake target and puts the libraries beside the Python files."""

    def build_extension(self, ext: Extension) -> None:
        """Configure, build, and let CMake write straight into the package directory."""
        package_dir = (ROOT / self.get_ext_fullpath(ext.name)).resolve().parent
        build_dir = Path(self.build_temp).resolve()
        build_dir.mkdir(parents=True, exist_ok=True)
        debug = self.debug or os.environ.get("DEBUG", "0") not in ("", "0")
        configure = [
            "cmake",
            *("-S", str(ROOT), "-B", str(build_dir), "-G", "Ninja"),
            f"-DCMAKE_BUILD_TYPE={'Debug' if debug else 'Release'}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={package_dir}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DEKPNET_CUDA={os.environ.get('EKPNET_CUDA', 'AUTO')}",
            *os.environ.get("CMAKE_ARGS", "").split(),
        ]
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build_dir)], check=True)


setup(
    ext_modules=[Extension("ekpnet_fast._module", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
