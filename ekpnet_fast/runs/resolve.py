"""Resolution of options: defaults, then the preset, then those given, checked.

Where the preset is "default", options that a model has rules for and that nobody gives are left
open, in `RunConfig.auto`; `settle` fills them in when the data are there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ekpnet_fast.config import RunConfig, StageConfig
from ekpnet_fast.data import PreparedData
from ekpnet_fast.data.datasets import is_split
from ekpnet_fast.data.splits import RANKING
from ekpnet_fast.errors import ConfigError, EkpnetError, reason
from ekpnet_fast.models import MODELS, Model
from ekpnet_fast.models.rules import DataFacts
from ekpnet_fast.native.cpus import MOST_THREADS
from ekpnet_fast.runs import typed

_STAGES = ("pretrain", "train")
_GROUPS = ("shape", "sampling", *_STAGES, "parallel", "synthetic")


def resolve(options: RunConfig | Mapping[str, Any]) -> RunConfig:
    """Resolve a run's options, complete and checked.

    Args:
        options: a configuration, which is taken as it is but for `epochs` and options that only
            its model has; or options by name, nested (`{"train": {"lr": 1e-3}}`) or dotted
            (`{"train.lr": 1e-3}`), the rest of which comes from the preset, the rules and the
            defaults. "auto" for an option that has a rule is the same as not to give it.

    Raises:
        ConfigError: an option that does not exist or is another model's, or a value that does not
            fit; names it.
    """
    with fitting_values():
        return _completed(options if isinstance(options, RunConfig) else _from_names(options))


def settle(config: RunConfig, prepared: PreparedData) -> RunConfig:
    """Fill in the options that are left to the rules."""
    if not config.auto:
        return config
    rules, facts = MODELS[config.model].rules, DataFacts.of(prepared)
    values = _nested({name: rules[name](facts) for name in config.auto})
    own = values.pop(config.model, {})
    settled: RunConfig = typed.changed(replace(config, auto=()), values)
    if own:
        settled = replace(settled, options=typed.changed(settled.options, own))
    return _completed(settled)


def from_data(config: RunConfig, prepared: PreparedData) -> dict[str, Any]:
    """Options of a settled run that are as the rules have them for its data, by dotted name.

    Without those of stages that are not run.
    """
    if config.preset != "default":
        return {}
    model = MODELS[config.model]
    facts, values = DataFacts.of(prepared), flat(config.as_dict())
    idle = [name for name in _STAGES if name not in model.stages or not values[f"{name}.epochs"]]
    found = {
        name: rule(facts)
        for name, rule in model.rules.items()
        if name.partition(".")[0] not in idle
    }
    return {name: value for name, value in found.items() if values[name] == value}


@contextmanager
def fitting_values() -> Iterator[None]:
    """Context in which what a value of another type breaks becomes one ConfigError."""
    try:
        yield
    except EkpnetError:
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise ConfigError(
            f"options: found a value of another type or size ({reason(error)}), expected those that"
            " --help names"
        ) from error


def flat(options: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    """Nested options by dotted name."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        inner = isinstance(value, Mapping)
        found |= flat(value, f"{start}{name}.") if inner else {f"{start}{name}": value}
    return found


def default_options(
    preset: str, dataset: str, model: str, data_root: str | Path | None = None
) -> dict[str, Any]:
    """Options that follow from others, by dotted name: those of the preset, and the protocol.

    Raises:
        ConfigError: as `preset_options`.
    """
    found = preset_options(preset, dataset, model)
    return {"protocol": "fixed", **found} if is_split(dataset, data_root) else found


def with_room_for_lists(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults, by dotted name, without groups of single pairs in stages that learn by lists.

    Pairs of a list are of one group, so that a model whose groups are of one pair, each with a user
    vector of its own step, would learn nothing from them.
    """
    single = {
        f"{stage}.group_size" for stage in _STAGES if given.get(f"{stage}.loss", "bce") != "bce"
    }
    return {name: value for name, value in defaults.items() if name not in single or value > 1}


def preset_options(preset: str, dataset: str, model: str) -> dict[str, Any]:
    """Options that a preset sets for a model, and other than "default" for a data set.

    By dotted name; without those that have rules.

    Raises:
        ConfigError: the preset has nothing for the model, or "paper" nothing for the data set.
    """
    kind = MODELS[model]
    if preset == "default":
        return dict(kind.defaults)
    if preset not in kind.presets:
        known = [name for name, found in MODELS.items() if preset in found.presets]
        raise ConfigError(f"--preset {preset} is for {', '.join(known)}, not for model {model}")
    options = kind.presets[preset]
    name = dataset.rstrip("/").removesuffix("/raw").rsplit("/", 1)[-1]
    if name not in options:
        raise ConfigError(
            f"--preset paper has settings for {', '.join(options)} (Table 2), not for {dataset}"
        )
    return {**kind.defaults, **options[name]}


def ruled_options(preset: str, model: str) -> tuple[str, ...]:
    """Options that follow from the data unless they are given, by dotted name."""
    return tuple(MODELS[model].rules) if preset == "default" else ()


def refuse_other_models(names: Iterable[str], model: str) -> None:
    """Refuse options, by dotted name, that only another model has: they would do nothing.

    Raises:
        ConfigError: there are some; names those of the first model.
    """
    for other in MODELS:
        found = [name for name in names if name.startswith(f"{other}.")]
        if found and other != model:
            listed = ", ".join(f"--{name}" for name in found)
            raise ConfigError(f"{listed}: an option of model {other}, but --model is {model}")


def _from_names(options: Mapping[str, Any]) -> RunConfig:
    given = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in flat(options).items()
    }
    for name in (*_GROUPS, *MODELS):
        if name in given:
            raise ConfigError(f"--{name} is {given[name]!r}, expected options by name")
    # Preset and options depend on data set and model: look at these first, then fill.
    model, dataset, preset = (
        str(given.get(name, getattr(RunConfig, name))) for name in ("model", "dataset", "preset")
    )
    _check_model(model)
    refuse_other_models(given, model)
    defaults = default_options(preset, dataset, model, given.get("data_root"))
    if "protocol" in given:
        defaults.pop("protocol", None)
    ruled = ruled_options(preset, model)
    given = {name: value for name, value in given.items() if name not in ruled or value != "auto"}
    defaults = with_room_for_lists(defaults, given)
    try:
        config = _of_types({"model": model, **defaults, **given})
    except (typed.UnfitError, ConfigError):
        config = _parsed(model, defaults, given)
    return replace(config, auto=tuple(name for name in ruled if not _is_given(name, given)))


def _check_optimizer(config: RunConfig) -> None:
    """Check that the backend of shared tables has their optimizer."""
    parallel, model = config.parallel, MODELS[config.model]
    has = {"rows": ("adam",), "torchrec": ("sgd", "adagrad", "rowwise_adagrad")}[parallel.table]
    if parallel.optimizer not in has:
        raise ConfigError(
            f"--parallel.optimizer is {parallel.optimizer}, expected {' or '.join(has)}:"
            f" --parallel.table {parallel.table} has no other on CPUs"
        )
    if parallel.table == "torchrec" and not model.tables:
        raise ConfigError(
            f"--parallel.table is torchrec, expected rows: {config.model} has no tables"
        )


def _check_negatives(config: RunConfig) -> None:
    """Check that negatives are drawn anew where options say how, and hard ones of mini-batches."""
    sampling, model = config.sampling, MODELS[config.model]
    drawn = (sampling.negatives, sampling.negatives_by)
    if drawn != (1, "uniform") and config.protocol not in RANKING:
        raise ConfigError(
            f"--sampling.negatives is {drawn[0]}, by {drawn[1]}, expected 1, uniform: --protocol"
            f" {config.protocol} draws them once"
        )
    if not 0 < sampling.hard_share <= 1:  # 0, or out of range, which is said elsewhere
        return
    found = f"--sampling.hard_share is {sampling.hard_share}, expected 0:"
    if config.protocol not in RANKING:
        raise ConfigError(f"{found} --protocol {config.protocol} draws negatives once")
    if why := _no_batches(model):
        raise ConfigError(f"{found} {config.model} {why}")


def _no_batches(model: type[Model]) -> str:
    return "" if model.stages else "is not trained by mini-batches"


def _is_given(option: str, given: Mapping[str, Any]) -> bool:
    """Whether an option is among those given, or is the epochs of a stage, which `epochs` sets."""
    return option in given or (option.endswith(".epochs") and given.get("epochs") is not None)


def _of_types(options: Mapping[str, Any]) -> RunConfig:
    values = _nested(options)
    if "auto" in values:
        raise typed.UnfitError
    kind = MODELS[values["model"]].Options
    own = values.pop(values["model"], {})
    if kind is None and own:
        raise typed.UnfitError
    options_of_model = None if kind is None else typed.changed(kind(), own)
    config: RunConfig = typed.changed(RunConfig(), values)
    return replace(config, options=options_of_model)


def _nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by dotted name, by group."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        *groups, last = name.split(".")
        inner = found
        for group in groups:
            inner = inner.setdefault(group, {})
            if not isinstance(inner, dict):  # an option and a group of one name
                raise typed.UnfitError
        inner[last] = value
    return found


def _parsed(model: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> RunConfig:
    # Imported on use, because jsonargparse takes a while.
    from ekpnet_fast.runs.option_parser import run_parser

    parser = run_parser(model)
    if defaults:
        parser.set_defaults(dict(defaults))
    values: dict[str, Any] = parser.instantiate(parser.parse_object(dict(given))).as_dict()
    model_options = values.pop(model, None)
    return RunConfig(**values, options=model_options)


def _completed(config: RunConfig) -> RunConfig:
    """Write `epochs` into the stages, and fill in the model's options."""
    _check_model(config.model)
    config = replace(config, options=_model_options(config))
    if config.epochs is not None:
        # Taken away here, or a written run would override stages named beside its --config.
        config = replace(
            config,
            epochs=None,
            pretrain=replace(config.pretrain, epochs=config.epochs),
            train=replace(config.train, epochs=config.epochs),
        )
    _check(config)
    return config


def _check_model(name: str) -> None:
    if name not in MODELS:
        raise ConfigError(f"--model is {name!r}, expected one of {', '.join(MODELS)}")


def _model_options(config: RunConfig) -> Any:
    kind, given = MODELS[config.model].Options, config.options
    if given is None:
        return None if kind is None else kind()
    if kind is None or not isinstance(given, kind):
        expected = "none" if kind is None else f"{kind.__module__}.{kind.__qualname__}"
        raise ConfigError(
            f"options: found {type(given).__qualname__} for model {config.model},"
            f" expected {expected}"
        )
    return given


def _check(config: RunConfig) -> None:
    model = MODELS[config.model]
    model.check(config)  # first, because a plan may be made of the model's options
    limits: list[tuple[str, float, float, float]] = [
        ("shape.width", config.shape.width, 1, 128),
        ("shape.hops", config.shape.hops, 1, 4),
        ("shape.slots", config.shape.slots, 1, 64),
        ("shape.layers", config.shape.layers, 1, 17),
        ("folds", config.folds, 1, 64),
        ("sampling.negatives", config.sampling.negatives, 1, 1024),
        ("sampling.hard_share", config.sampling.hard_share, 0, 1),
        ("parallel.parts", config.parallel.parts, 1, 64),
        ("seed", config.seed, 0, 2**31 - 1),
        ("memory_mb", config.memory_mb, 1, float("inf")),
    ]
    limits += [("ks", k, 1, 2**31 - 1) for k in config.ks]
    if config.ranked_users is not None:
        limits.append(("ranked_users", config.ranked_users, 1, 2**31 - 1))
    if config.checkpoint_every is not None:
        limits.append(("checkpoint_every", config.checkpoint_every, 0, 2**31 - 1))
        if config.checkpoint_every and config.output is None:
            raise ConfigError(
                f"--checkpoint_every is {config.checkpoint_every} but there is no --output, the"
                " folder where checkpoints lie"
            )
    if config.report and config.output is None:
        raise ConfigError("--report is true but there is no --output, the folder it is written to")
    if config.threshold is not None and not math.isfinite(config.threshold):
        raise ConfigError(f"--threshold is {config.threshold}, expected a finite number")
    if config.threads is not None:
        limits.append(("threads", config.threads, 1, MOST_THREADS))
    for name in _STAGES:
        stage: StageConfig = getattr(config, name)
        for option, low, high in (
            ("epochs", 0, 2**31 - 1),
            ("patience", 1, 2**31 - 1),
            ("batch_size", 1, 2**31 - 1),
            ("group_size", 1, 2**31 - 1),
            ("triples", 0, 2**24),  # more would take gigabytes per mini-batch
            ("lambda1", 0.0, float("inf")),
            ("lambda2", 0.0, float("inf")),
            ("lambda3", 0.0, float("inf")),
        ):
            limits.append((f"{name}.{option}", getattr(stage, option), low, high))
        pairs = name in model.stages and model.plan(config, name).pairs
        if stage.loss != "bce" and not pairs:
            raise ConfigError(
                f"--{name}.loss is {stage.loss}, expected bce: {config.model} has no such stage, or"
                " learns from no pairs in it"
            )
        for option in ("group_size", "batch_size"):
            if stage.loss != "bce" and getattr(stage, option) == 1:
                raise ConfigError(
                    f"--{name}.{option} is 1, expected 2 or more with --{name}.loss {stage.loss}: a"
                    " list is of pairs of one group, and of single pairs it has nothing to compare"
                )
        if not 0 < stage.lr < float("inf"):
            raise ConfigError(f"--{name}.lr is {stage.lr}, expected a number above 0")
        triples = model.plan(config, name).triples if name in model.stages else "none"
        if stage.lambda1 > 0 and stage.triples == 0 and triples != "none":
            raise ConfigError(
                f"--{name}.lambda1 is {stage.lambda1} but --{name}.triples is 0:"
                " the KG term would have nothing to weigh; set triples, or lambda1 to 0"
            )
        if name in model.stages and not model.plan(config, name).pairs and stage.lambda1 == 0:
            raise ConfigError(
                f"--{name}.lambda1 is 0, expected more: in this stage {config.model} learns from"
                " the KG term alone"
            )
    _check_negatives(config)
    if config.folds > 1 and not (model.ripple or model.history):
        raise ConfigError(
            f"--folds is {config.folds}, expected 1: {config.model} does not look at histories, so"
            " there is nothing to hide a row's own fold from"
        )
    if config.shape.table_dtype != "float32":
        found = f"--shape.table_dtype is {config.shape.table_dtype}, expected float32:"
        if not model.tables:
            raise ConfigError(f"{found} {config.model} has no tables")
        if config.parallel.parts > 1:
            raise ConfigError(f"{found} processes share tables of --parallel.parts in float32")
    _check_optimizer(config)
    if config.parallel.parts > 1 and (why := model.uncut or _no_batches(model)):
        raise ConfigError(
            f"--parallel.parts is {config.parallel.parts}, expected 1: {config.model} {why}"
        )
    for option, value, low, high in limits:
        if not low <= value <= high:
            span = f"at least {low}" if high == float("inf") else f"{low} to {high}"
            raise ConfigError(f"--{option} is {value}, expected {span}")
    if config.protocol in RANKING and not config.ranking:
        raise ConfigError(
            f"--ranking is false, expected true: --protocol {config.protocol} only ranks"
        )
    if model.stages and not any(getattr(config, name).epochs for name in model.stages):
        raise ConfigError("no stage has an epoch to train: set --epochs to at least 1")
