"""Public files of RippleNet: downloaded, or placed by hand, and verified."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ekpnet_fast.errors import ConfigError, DataError

__all__ = ["REMOTES", "Remote", "fetch", "git_blob_sha1", "verify"]

_RIPPLENET = "https://raw.githubusercontent.com/hwwang55/RippleNet/46a364d/data"


@dataclass(frozen=True, slots=True)
class Remote:
    """Address and hashes of a data set's raw files.

    Attributes:
        base: address of their folder.
        hashes: git's blob SHA-1 by file name.
        terms: what their owner allows.
    """

    base: str
    hashes: Mapping[str, str]
    terms: str


REMOTES: dict[str, Remote] = {
    "book-crossing": Remote(
        f"{_RIPPLENET}/book",
        {
            "BX-Book-Ratings.csv": "d31c6ca1d883da5527220742f9cae3ab327fcb97",
            "kg_rehashed.txt": "c8da1ebfc66ce595d05d174c3420e2cb76a862a2",
            "item_index2entity_id_rehashed.txt": "647ddf89c4e54e2553317a145062311b8eaba7e2",
        },
        "Book-Crossing (C.-N. Ziegler), published for research",
    ),
    "movielens-1m": Remote(
        f"{_RIPPLENET}/movie",
        {
            "ratings.dat": "77a7c4b150f588c23bb9e1f068aa996c0b413695",
            "kg_part1_rehashed.txt": "875b42e97a6a9ca1bc0b6151bbd9b85318b2fdbc",
            "kg_part2_rehashed.txt": "c3155b3a6280960930880867b92d125593537b94",
            "item_index2entity_id_rehashed.txt": "1d33bcf9778f85a8ee65642f03e0704d03ba7e36",
        },
        "MovieLens (GroupLens): for research, not to be redistributed without permission",
    ),
}

Download = Callable[[str, Path], None]  # address, file to write


def git_blob_sha1(path: Path) -> str:
    """Hash that git gives a file: SHA-1 of ``blob SIZE``, a zero byte and the content."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def verify(path: Path, expected: str) -> None:
    """Compare a file with its hash.

    Raises:
        DataError: the content is another; names its size and hash.
    """
    found = git_blob_sha1(path)
    if found != expected:
        raise DataError.about(
            path,
            None,
            f"{path.stat().st_size:,} bytes with git blob SHA-1 {found}",
            f"{expected}; the file is cut off or another version",
        )


def fetch(name: str, folder: Path, remote: Remote, download: Download | None = None) -> list[str]:
    """Bring a data set's files into a folder and verify them.

    Files that are there already are verified and kept; only missing ones are downloaded.

    Args:
        name: of the data set, for messages.
        folder: where the files go.
        remote: where they come from.
        download: fetches one file; with pooch when None.

    Returns:
        A line per file: what was done.

    Raises:
        DataError: a file with another hash, or one that cannot be downloaded; then the message
            says which files to place where by hand.
        ConfigError: the folder cannot be written, or pooch is needed and missing.
    """
    done = []
    missing = []
    for file, expected in remote.hashes.items():
        if (folder / file).is_file():
            verify(folder / file, expected)
            done.append(f"{folder / file}: there already, verified")
        else:
            missing.append(file)
    if missing and download is None:
        download = _pooch(name, folder, remote, missing)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror})") from error
    for place, file in enumerate(missing):
        part = folder / f".{file}.part"
        url = f"{remote.base}/{file}"
        assert download is not None
        try:
            try:
                download(url, part)
            except Exception as error:  # any error of the network has the same remedy
                cause = str(error).splitlines()[0] if str(error) else type(error).__name__
                by_hand = _by_hand(name, folder, remote, missing[place:])
                raise DataError(f"{url} cannot be downloaded ({cause}); {by_hand}") from error
            try:
                verify(part, remote.hashes[file])
            except DataError as error:
                raise DataError(f"{url}: {error}; it was not kept, try again") from error
            part.replace(folder / file)
        except OSError as error:
            raise ConfigError(f"{folder} cannot be written ({error.strerror})") from error
        finally:
            part.unlink(missing_ok=True)
        done.append(f"{folder / file}: downloaded, verified")
    return done


def _by_hand(name: str, folder: Path, remote: Remote, missing: list[str]) -> str:
    return (
        f"without a network place {', '.join(missing)} from {remote.base} in {folder} by hand,"
        f" then verify them with: python -m ekpnet_fast.data fetch {name}"
    )


def _pooch(name: str, folder: Path, remote: Remote, missing: list[str]) -> Download:
    try:
        import pooch
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"downloading needs pooch ({error}); install it: pip install 'ekpnet_fast[fetch]', or"
            f" {_by_hand(name, folder, remote, missing)}"
        ) from error

    def download(url: str, part: Path) -> None:
        downloader = pooch.HTTPDownloader(timeout=30)
        found = pooch.retrieve(
            url, known_hash=None, fname=part.name, path=part.parent, downloader=downloader
        )
        if Path(found) != part:
            shutil.move(found, part)

    pooch.get_logger().setLevel("WARNING")
    return download
