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


def run_parser() -> OptionParser:
    """The options of `python -m ekpnet_fast.train`."""
    parser = OptionParser(
        prog="python -m ekpnet_fast.train",
        description="Train EKPNet or one of its variants and report test metrics.",
        exit_on_error=True,
    )
    parser.add_argument("--config", action="config", help="YAML file of options")
    parser.add_class_arguments(RunConfig, as_group=False)
    return parser


def parse_run(arguments: Sequence[str] | None = None) -> RunConfig:
    """Options from defaults, then the preset, then `--config`, then the command line.

    Raises:
        ConfigError: an unknown option or a value that does not fit; names it.
    """
    parser = run_parser()
    arguments = [_underscored(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    # The preset depends on the data set, and both may come from the file: look first, then fill.
    first = parser.parse_args([w for w in arguments if not w.startswith("--print_config")])
    options = preset_options(first.preset, first.dataset)
    if options:
        parser.set_defaults(options)
    parsed = parser.parse_args(arguments)
    return _config(parser, parsed).resolved()


def _underscored(word: str) -> str:
    """`--data-root` as `--data_root`, the name of the field."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _config(parser: OptionParser, parsed: Namespace) -> RunConfig:
    values: dict[str, Any] = parser.instantiate(parsed).as_dict()
    values.pop("config", None)
    return RunConfig(**values)
