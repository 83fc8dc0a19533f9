"""Typed options of a run, as a jsonargparse parser."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from typing import Literal, NoReturn

from jsonargparse import ArgumentParser

from ekpnet_fast.config import RunConfig
from ekpnet_fast.errors import ConfigError
from ekpnet_fast.models import MODELS

_NAMES = {
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "NoneType": "null",
    "str": "text",
    "tuple": "a list such as [10, 20]",
}


class OptionParser(ArgumentParser):
    """Parser whose errors are one line, with the option that was probably meant."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise ConfigError instead of printing the usage."""
        # jsonargparse wraps causes in lines of context; the innermost says what was found.
        lines = [line.strip(" -") for line in message.splitlines() if line.strip()]
        text = " ".join(lines)
        raise ConfigError(_unfit_value(text) or text + self._suggestion(text)) from ex

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


def _unfit_value(message: str) -> str:
    """Message about a value of the wrong type in our words; "" for another message."""
    found = re.search(r'"([\w.]+)": .*(?:Got|Given) value: (.*)$', message)
    kinds = re.findall(r"Expected a (?:<class '(\w+)'>|typing\.Literal\[(.+?)\])", message)
    if found is None or not kinds:
        return ""
    expected = [_NAMES.get(kind, kind) or choices.replace("'", "") for kind, choices in kinds]
    return f"--{found[1]} is {found[2]}, expected {' or '.join(dict.fromkeys(expected))}"


def run_parser(model: str | None = None, auto: Collection[str] | None = None) -> OptionParser:
    """Parser of a run's options, with those that only one model has, or all models'.

    Unless `auto` is None, options that a model has a rule for take "auto", and those that `auto`
    names have it as their default.
    """
    listed = "; ".join(f"{name}: {MODELS[name].summary}" for name in MODELS)
    parser = OptionParser(
        prog="python -m ekpnet_fast.train",
        description=f"Train a recommender and report test metrics. Models: {listed}. What is auto"
        " follows from the data, by rules of the model.",
        exit_on_error=True,
    )
    parser.add_argument(
        "--model", choices=list(MODELS), default=RunConfig.model, help="the recommender"
    )
    parser.add_class_arguments(RunConfig, as_group=False, skip={"model", "options", "auto"})
    for name in MODELS if model is None else [model]:
        options = MODELS[name].Options
        if options is not None:
            parser.add_class_arguments(options, name)
    if auto is not None:
        ruled = {name for kind in MODELS.values() for name in kind.rules}
        for action in parser._actions:
            if action.dest in ruled:
                vars(action)["_typehint"] |= Literal["auto"]
        parser.set_defaults({name: "auto" for name in auto})
    return parser
