"""Command line of `python -m ekpnet_fast.train`."""

from __future__ import annotations

import re
import sys
from argparse import SUPPRESS
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from ekpnet_fast.config import WITHOUT_EFFECT, RunConfig
from ekpnet_fast.errors import ConfigError, DataError, quote, reason
from ekpnet_fast.models import MODELS
from ekpnet_fast.runs.option_parser import OptionParser, run_parser
from ekpnet_fast.runs.places import lasting, moved
from ekpnet_fast.runs.resolve import (
    default_options,
    fitting_values,
    flat,
    resolve,
    ruled_options,
    with_room_for_lists,
)
from ekpnet_fast.runs.run_folder import read_config
from ekpnet_fast.storage.yaml_file import check_yaml, read_yaml

_PATHS = ("output", "data_root", "config", "resume", "tune_space")
_NOT_OF_A_RUN = ("resume", "tune", "tune_space")


def command_parser(model: str | None = None, auto: Collection[str] = ()) -> OptionParser:
    """Parser of the command's options: a run's, a file of them, resuming and tuning."""
    parser = run_parser(model, auto)
    parser.add_argument("--config", action="config", help="YAML file of options")
    parser.add_argument(
        "--resume",
        type=str,
        metavar="DIR",
        default=SUPPRESS,
        help="go on with the unfinished run in DIR, with its options",
    )
    parser.add_argument(
        "--tune",
        type=int,
        metavar="N",
        default=SUPPRESS,
        help="instead of one run, search in --output for the options that validate best, N trials",
    )
    parser.add_argument(
        "--tune_space",
        type=str,
        metavar="FILE",
        default=SUPPRESS,
        help="YAML of the options that --tune tries, if not the usual ones",
    )
    return parser


@dataclass(frozen=True)
class Command:
    """Command line, parsed.

    Attributes:
        config: a resolved run.
        resume: whether to go on with the unfinished run in `config.output`.
        tune: trials of a search for better options, None for a run.
        tune_space: file of the search space.
        options: the options given, by words and in a file, of which `config` was resolved.
        named: those given by words, by dotted name.
    """

    config: RunConfig
    resume: bool = False
    tune: int | None = None
    tune_space: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    named: frozenset[str] = frozenset()


def parse_command(arguments: Sequence[str] | None = None) -> Command:
    """Parse all options of `python -m ekpnet_fast.train`.

    Raises:
        ConfigError: as `resolve`; beside --resume an option of which the run has another value;
            or options that do not go together.
        DataError: the folder to resume holds no run.
    """
    words = _words(arguments)
    resumed, words = _take(words, "resume")
    trials, words = _take(words, "tune")
    space, words = _take(words, "tune_space")
    if space is not None and trials is None:
        raise ConfigError(f"--tune_space is {space} but there is no --tune, the number of trials")
    if trials is not None and resumed is not None:
        raise ConfigError("--resume beside --tune: a search goes on by its own command")
    if resumed is not None:
        return Command(_resumed(Path(resumed), words), resume=True)
    if trials is not None and not re.fullmatch("[0-9]{1,9}", trials):
        raise ConfigError(f"--tune is {trials!r}, expected a number of trials")
    with fitting_values():
        options = _given(words)
    return Command(
        resolve(options),
        tune=None if trials is None else int(trials),
        tune_space=None if space is None else Path(space),
        options=options,
        named=frozenset({_name(word) for word in words} - {""}),
    )


def _given(words: list[str]) -> dict[str, Any]:
    """Options that a command line gives, with those of its --config, by dotted name."""
    for config in _all(words, "config"):
        _check_config(config)
    named = _take(words, "model")[0] or RunConfig.model
    parser = command_parser(auto=MODELS[named].rules if named in MODELS else ())
    options = parser.parse_args([w for w in words if not w.startswith("--print_config")])
    if any(word.startswith("--print_config") for word in words):
        full = command_parser(options.model, ruled_options(options.preset, options.model))
        defaults = default_options(
            options.preset, options.dataset, options.model, options.data_root
        )
        full.set_defaults(with_room_for_lists(defaults, flat(options.as_dict())))
        full.parse_args(words)  # prints, and ends the process
    given = parser.parse_args(words, defaults=False).as_dict()
    given.pop("config", None)
    for name in _NOT_OF_A_RUN:
        if name in given:
            raise ConfigError(f"{name} is no option of a run, expected it on the command line only")
    return flat(given)


def _resumed(folder: Path, words: list[str]) -> RunConfig:
    """Configuration of a stored run, of which only options that change no number may differ."""
    try:
        stored = read_config(folder)
    except DataError as error:
        raise DataError(f"--resume {error}") from error
    if "config" in {_name(word) for word in words}:
        raise ConfigError(f"--config beside --resume: the options come from {folder}")
    given = _given(words)
    stored = moved(stored, given.get("data_root"))
    for option in ("output", "overwrite"):
        if option in given:
            raise ConfigError(f"--{option} beside --resume: the run goes on in {folder}")
    config = resolve({**flat(stored), **given})
    before, now = (flat(lasting(each).as_dict()) for each in (resolve(stored), config))
    for option in {**before, **now}:
        found, had = now.get(option), before.get(option)
        if found != had and option not in (*WITHOUT_EFFECT, "threads"):
            raise ConfigError(
                f"--{option} is {found}, but the run to resume has {had}; leave it out, or start"
                " another run"
            )
    return replace(config, output=folder, overwrite=False)


def _take(words: list[str], option: str) -> tuple[str | None, list[str]]:
    """Split off an option: its value, None without it, and the other words."""
    rest, found = [], None
    words = list(words)
    while words:
        word = words.pop(0)
        if _name(word) != option:
            rest.append(word)
            continue
        _, equals, found = word.partition("=")
        if not equals:
            if not words or words[0].startswith("--"):
                raise ConfigError(f"--{option} has no value, expected one")
            found = words.pop(0)
    return found, rest


def _all(words: list[str], option: str) -> list[str]:
    """Values of an option that may come several times."""
    found, rest = _take(words, option) if option in map(_name, words) else (None, words)
    return [] if found is None else [found, *_all(rest, option)]


def _check_config(value: str) -> None:
    """Check a file of options, or their text, which the parser reads by itself.

    Raises:
        ConfigError: no plain YAML.
    """
    try:
        path = Path(value)
        if path.exists():
            place, found = f"--config {path}", read_yaml(path)
        else:
            place, found = "--config", check_yaml(value, "--config")
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
            raise ConfigError(f"{place}: found {quote(str(found))}, expected a file of options")
    except DataError as error:
        raise ConfigError(f"--config {str(error).removeprefix('--config: ')}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"--config: found {quote(value)} ({reason(error)})") from error


def _name(word: str) -> str:
    """Option that a word names; "" if it names none."""
    return word[2:].partition("=")[0] if word.startswith("--") else ""


def _words(arguments: Sequence[str] | None) -> list[str]:
    """Words of the command line with fields' names; a bare `--report` means `--report true`.

    Raises:
        ConfigError: a word that is no UTF-8, in which the options of a run are kept.
    """
    words = [_underscored(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    found: list[str] = []
    for option, word in pairwise(["", *words]):
        try:
            word.encode()
        except UnicodeEncodeError:
            name = _name(word) or _name(option)
            place = f"--{name}" if name.isascii() and name else "options"
            raise ConfigError(f"{place}: found {quote(word)}, expected text in UTF-8") from None
        named, equals, value = word.partition("=")
        path = _name(named) if equals else _name(option) if not word else ""
        if path in _PATHS and not value:  # it would be the folder that the process works in
            raise ConfigError(f"--{path} is empty, expected a file or folder")
    for word, following in pairwise([*words, "--"]):
        found.append(word)
        if word in ("--report", "--overwrite", "--refit") and following.startswith("--"):
            found.append("true")
    return found


def _underscored(word: str) -> str:
    """Write `--data-root` as `--data_root`, the name of the field."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value
