"""From the command line and YAML files to a run's options."""

from __future__ import annotations

import difflib
import re
import sys
from argparse import SUPPRESS
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from ekpnet_fast.config import WITHOUT_EFFECT, RunConfig, preset_options
from ekpnet_fast.errors import ConfigError, DataError
from ekpnet_fast.models import MODELS
from ekpnet_fast.runs.run_folder import CONFIG_FILE

_NOT_OF_A_RUN = ("resume", "tune", "tune_space")


class OptionParser(ArgumentParser):
    """Says what is wrong on one line, with the option that was probably meant."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise ConfigError instead of printing the usage."""
        # jsonargparse wraps causes in lines of context; the innermost says what was found.
        lines = [line.strip(" -") for line in message.splitlines() if line.strip()]
        text = " ".join(lines)
        raise ConfigError(text + self._suggestion(text)) from ex

    def _suggestion(self, message: str) -> str:
        flag = re.search(r"unrecognized arguments: --([\w.]+)", message)
        key = re.search(r"(?:Group '([\w.]+)' does not accept o|O)ption '([\w.]+)'", message)
        if flag is not None:
            name = flag[1]
        elif key is not None:
            name = f"{key[1]}.{key[2]}" if key[1] else key[2]
        else:
            return ""
        known = [action.dest for action in self._actions]
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        tails = [known_name for known_name in known if known_name.rsplit(".")[-1] == name]
        found = tails or close
        return f"; did you mean {', '.join('--' + option for option in found)}?" if found else ""


def run_parser(model: str | None = None) -> OptionParser:
    """The options of `python -m ekpnet_fast.train`, with those of one model, or of all."""
    listed = "; ".join(f"{name}: {MODELS[name].summary}" for name in MODELS)
    parser = OptionParser(
        prog="python -m ekpnet_fast.train",
        description=f"Train a recommender and report test metrics. Models: {listed}.",
        exit_on_error=True,
    )
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
    parser.add_argument(
        "--model", choices=list(MODELS), default=RunConfig.model, help="the recommender"
    )
    parser.add_class_arguments(RunConfig, as_group=False, skip={"model", "options"})
    for name in MODELS if model is None else [model]:
        options = MODELS[name].Options
        if options is not None:
            parser.add_class_arguments(options, name)
    return parser


@dataclass(frozen=True)
class Command:
    """What `python -m ekpnet_fast.train` was told.

    Attributes:
        config: a resolved run.
        resume: whether to go on with the unfinished run in `config.output`.
        tune: trials of a search for better options, None for a run.
        tune_space: file of what the search tries.
        words: the options of the run, as given.
    """

    config: RunConfig
    resume: bool = False
    tune: int | None = None
    tune_space: Path | None = None
    words: tuple[str, ...] = ()


def parse_command(arguments: Sequence[str] | None = None) -> Command:
    """All options of `python -m ekpnet_fast.train`.

    Raises:
        ConfigError: as `parse_run`; beside --resume an option of which the run has another value;
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
    if trials is not None and not trials.isdecimal():
        raise ConfigError(f"--tune is {trials!r}, expected a number of trials")
    return Command(
        parse_run(words),
        tune=None if trials is None else int(trials),
        tune_space=None if space is None else Path(space),
        words=tuple(words),
    )


def parse_run(arguments: Sequence[str] | None = None) -> RunConfig:
    """Options from defaults, then the preset, then `--config`, then the command line.

    Raises:
        ConfigError: an unknown option, one of another model, or a value that does not fit; names
            it.
    """
    arguments = _words(arguments)
    # Preset and options depend on data set and model, which may come from the file: look first,
    # then fill.
    words = [w for w in arguments if not w.startswith("--print_config")]
    first = run_parser()
    chosen = first.parse_args(words)
    given = first.parse_args(words, defaults=False)
    for name in _NOT_OF_A_RUN:
        if name in given:
            raise ConfigError(f"{name} is no option of a run, expected it on the command line only")
    _refuse_other_models(given, chosen.model)
    parser = run_parser(chosen.model)
    options = preset_options(chosen.preset, chosen.dataset, chosen.model)
    if options:
        parser.set_defaults(options)
    parsed = parser.parse_args(arguments)
    return _config(parser, parsed).resolved()


def _resumed(folder: Path, words: list[str]) -> RunConfig:
    """The stored options of a run, but for those that change no number of it."""
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise DataError(f"--resume {folder}: has no {CONFIG_FILE}, expected the folder of a run")
    if "config" in {_name(word) for word in words}:
        raise ConfigError(f"--config beside --resume: the options come from {file}")
    given = run_parser().parse_args(words, defaults=False)
    for option in ("output", "overwrite"):
        if option in given:
            raise ConfigError(f"--{option} beside --resume: the run goes on in {folder}")
    stored = parse_run(["--config", str(file)])
    config = parse_run(["--config", str(file), *words])
    before, now = _flat(stored.as_dict()), _flat(config.as_dict())
    for option in {**before, **now}:
        found, had = now.get(option), before.get(option)
        if found != had and option not in (*WITHOUT_EFFECT, "threads"):
            raise ConfigError(
                f"--{option} is {found}, but the run to resume has {had}; leave it out, or start"
                " another run"
            )
    return replace(config, output=folder, overwrite=False)


def _flat(values: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    """Nested options by dotted name."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = isinstance(value, Mapping)
        found |= _flat(value, f"{start}{name}.") if inner else {f"{start}{name}": value}
    return found


def _take(words: list[str], option: str) -> tuple[str | None, list[str]]:
    """The value of an option, None without it, and the other words."""
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


def named(arguments: Sequence[str]) -> set[str]:
    """The options that a command line names, by dotted name."""
    return {_name(word) for word in _words(arguments)} - {""}


def _name(word: str) -> str:
    """The option that a word names; "" if it names none."""
    return word[2:].partition("=")[0] if word.startswith("--") else ""


def _refuse_other_models(given: Namespace, model: str) -> None:
    """An option that would do nothing is an error."""
    for name in MODELS:
        if name in given and name != model:
            options = ", ".join(f"--{name}.{key}" for key in given[name].as_dict())
            raise ConfigError(f"{options}: an option of model {name}, but --model is {model}")


def _words(arguments: Sequence[str] | None) -> list[str]:
    """The command line with fields' names; a bare `--report` stands for `--report true`."""
    words = [_underscored(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    found: list[str] = []
    for word, following in pairwise([*words, "--"]):
        found.append(word)
        if word in ("--report", "--overwrite") and following.startswith("--"):
            found.append("true")
    return found


def _underscored(word: str) -> str:
    """`--data-root` as `--data_root`, the name of the field."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _config(parser: OptionParser, parsed: Namespace) -> RunConfig:
    values: dict[str, Any] = parser.instantiate(parsed).as_dict()
    values.pop("config", None)
    options = values.pop(parsed.model, None)
    return RunConfig(**values, options=options)
