"""From the command line and YAML files to a run's options."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from ekpnet_fast.config import RunConfig, preset_options
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.models import MODELS


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
        "--model", choices=list(MODELS), default=RunConfig.model, help="the recommender"
    )
    parser.add_class_arguments(RunConfig, as_group=False, skip={"model", "options"})
    for name in MODELS if model is None else [model]:
        options = MODELS[name].Options
        if options is not None:
            parser.add_class_arguments(options, name)
    return parser


def parse_run(arguments: Sequence[str] | None = None) -> RunConfig:
    """Options from defaults, then the preset, then `--config`, then the command line.

    Raises:
        ConfigError: an unknown option, one of another model, or a value that does not fit; names
            it.
    """
    arguments = [_underscored(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    # Preset and options depend on data set and model, which may come from the file: look first,
    # then fill.
    words = [w for w in arguments if not w.startswith("--print_config")]
    first = run_parser()
    chosen = first.parse_args(words)
    given = first.parse_args(words, defaults=False)
    _refuse_other_models(given, chosen.model)
    parser = run_parser(chosen.model)
    options = preset_options(chosen.preset, chosen.dataset, chosen.model)
    if options:
        parser.set_defaults(options)
    parsed = parser.parse_args(arguments)
    return _config(parser, parsed).resolved()


def _refuse_other_models(given: Namespace, model: str) -> None:
    """An option that would do nothing is an error."""
    for name in MODELS:
        if name in given and name != model:
            options = ", ".join(f"--{name}.{key}" for key in given[name].as_dict())
            raise ConfigError(f"{options}: an option of model {name}, but --model is {model}")


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
