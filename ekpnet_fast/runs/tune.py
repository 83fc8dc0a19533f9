"""Hyperparameter search by Optuna, `--tune N`: the options that validate best (extra `tune`).

A trial trains with some values of the options in the search space and is worth its best validation
AUC (MRR@10 under the protocol "recbole"); the test examples are never read. The next trial follows
from the seed and the trials that are finished, so a search that was killed goes on as if it had
not been, by the same command.

In the folder of the search:

    study.log    Optuna's journal; optuna.storages.journal.JournalFileBackend reads it.
    trials.csv   number, value, seconds, error, and the options of each finished trial.
    best.yaml    every option of the best trial, for --config.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ekpnet_fast.config import WITHOUT_EFFECT, RunConfig
from ekpnet_fast.data import PreparedData
from ekpnet_fast.errors import ConfigError, DataError, TrainingError, told
from ekpnet_fast.models import MODELS
from ekpnet_fast.native.defaults import plain_defaults
from ekpnet_fast.runs import run_folder
from ekpnet_fast.runs.evaluate import Stopwatch, load
from ekpnet_fast.runs.resolve import flat, resolve, settle
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.storage.files import to_json, write_text
from ekpnet_fast.storage.yaml_file import read_yaml
from ekpnet_fast.training import loop

if TYPE_CHECKING:
    import optuna

__all__ = ["Range", "Space", "Trial", "default_space", "read_space", "tune"]

STUDY_FILE, TRIALS_FILE, BEST_FILE = "study.log", "trials.csv", "best.yaml"

# Options that change the data that a trial is measured on, or that all trials share.
_FIXED = ("dataset", "threshold", "seed", "protocol", "model", "preset", "backend", "device")


@dataclass(frozen=True)
class Range:
    """Range of numbers from `low` to `high`, both included; whole ones if both are."""

    low: float
    high: float
    log: bool = False


Space = Mapping[str, "Range | tuple[Any, ...]"]
"""Search space: a range or choices for each option, by dotted name."""


@dataclass(frozen=True)
class Trial:
    """Finished trial.

    Attributes:
        number: from 1.
        value: best on validation; NaN where training failed.
        seconds: of training.
        options: the values tried, by dotted name.
        error: why training failed, None where it did not.
    """

    number: int
    value: float
    seconds: float
    options: Mapping[str, Any]
    error: str | None


def default_space(config: RunConfig) -> Space:
    """Search space of the data, sampler, model and stage options that matter for a run's model."""
    model = MODELS[config.model]
    space: dict[str, Range | tuple[Any, ...]] = {"shape.width": (4, 8, 16, 32)}
    if model.ripple:
        space |= {
            "shape.hops": (1, 2, 3),
            "shape.slots": (16, 32, 64),
            "sampling.inverse": (True, False),
            "sampling.resample": (True, False),
        }
    if model.ripple or model.history:
        space["folds"] = (1, 5)
    for stage in model.stages:
        space[f"{stage}.lr"] = Range(1e-3, 5e-2, log=True)
        space[f"{stage}.batch_size"] = (256, 512, 1024, 2048, 4096)
        space[f"{stage}.lambda3"] = Range(1e-7, 1e-1, log=True)
        if model.plan(config, stage).triples != "none":
            space[f"{stage}.lambda1"] = Range(1e-4, 1.0, log=True)
    return space


def read_space(file: Path) -> Space:
    """Read YAML such as `option: [choices]` or `option: {low: 1e-3, high: 0.1, log: true}`.

    Raises:
        ConfigError: not such a file; names the option.
    """
    try:
        found = read_yaml(file)
    except DataError as error:
        raise ConfigError(f"--tune_space {error}") from error
    if not isinstance(found, dict) or not found:
        raise ConfigError(f"--tune_space {file}: expected lines such as 'train.lr: [0.01, 0.003]'")
    return {str(option): _values(file, option, values) for option, values in found.items()}


def _values(file: Path, option: object, values: object) -> Range | tuple[Any, ...]:
    if isinstance(values, list) and values:
        return tuple(values)
    if isinstance(values, dict) and {"low", "high"} <= values.keys() <= {"low", "high", "log"}:
        try:
            low, high = (_number(values[end]) for end in ("low", "high"))
        except (TypeError, ValueError):
            low, high = math.nan, math.nan
        log = values.get("log", False)
        if low < high < math.inf and isinstance(log, bool) and (low > 0 or not log):
            return Range(low, high, log)
    raise ConfigError(
        f"--tune_space {file}: {str(option)[:60]} is {str(values)[:60]}, expected a list of"
        " choices, or low and high"
        " with low < high, and log: true only above 0"
    )


def _number(value: Any) -> float:
    """Number of a YAML value, which is text if it has no point (1e-3)."""
    if isinstance(value, bool):
        raise TypeError
    return value if isinstance(value, int | float) else float(value)


@plain_defaults()
def tune(
    options: Mapping[str, Any],
    trials: int,
    space: Space | None = None,
    on_trial: Callable[[Trial, Trial], None] = lambda trial, best: None,
    *,
    fixed: Collection[str] | None = None,
    warn: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
) -> list[Trial]:
    """Search, or go on with the search in `--output`, until so many trials are finished.

    Args:
        options: of the runs, by name, as `resolve` takes them; `output` is the search's folder.
        trials: finished ones in the end, those of earlier processes included.
        space: the search space; `default_space` if not given.
        on_trial: called with each trial when it is finished, and the best one so far.
        fixed: options by dotted name that the default space leaves as they are; all of `options`
            if not given.
        warn: called with what is cut from a journal whose last line is torn.

    Returns:
        The finished trials, best first.

    Raises:
        ConfigError: optuna is missing, an option that cannot be tuned or has no effect here, or a
            folder that holds another search.
        DataError, TrainingError: data that cannot be trained on, or trials that all failed.
    """
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise ConfigError(
            "--tune needs optuna, which is missing; pip install 'ekpnet_fast[tune]'"
        ) from error
    options = flat(options)
    config = resolve(options)
    _check(config, trials)
    if space is None:
        left = options if fixed is None else fixed
        space = {name: values for name, values in default_space(config).items() if name not in left}
    _check_space(options, space)
    assert config.output is not None
    with run_folder.open_output(config.output, overwrite=config.overwrite):
        journal = config.output / STUDY_FILE
        if config.overwrite:
            journal.unlink(missing_ok=True)
        mend_journal(journal, warn)
        config, prepared, graph = load(config, Stopwatch())
        assert config.output is not None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with told(journal, "the journal of a search; start anew with --overwrite true"):
            study = optuna.create_study(
                storage=optuna.storages.JournalStorage(JournalFileBackend(str(journal))),
                study_name="ekpnet_fast",
                direction="maximize",
                load_if_exists=True,
            )
            _finished(study)
        _check_study(study, config, space, prepared.hash)
        for left in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(
                left.number, state=optuna.trial.TrialState.FAIL
            )  # of a search that was killed
        finished = _finished(study)
        while len(finished) < trials:
            _try(study, options, config, space, prepared, graph, len(finished))
            finished = _finished(study)
            best = max(finished, key=_worth)
            _write(config.output, finished)
            if best.error is None:
                run = settle(resolve({**options, **best.options}), prepared)
                run = replace(run.without_output(), data_root=config.data_root)
                write_text(
                    config.output / BEST_FILE, yaml.safe_dump(run.as_dict(), sort_keys=False)
                )
            on_trial(finished[-1], best)
    ordered = sorted(finished, key=_worth, reverse=True)
    if ordered[0].error is not None:
        raise TrainingError(
            f"--tune: all {len(ordered)} trials failed, such as: {ordered[0].error}"
        )
    return ordered


def mend_journal(journal: Path, warn: Callable[[str], None]) -> None:
    """Cut what a full disk or a power cut left torn at the end of a journal, and its dead lock.

    Nobody else writes there, because the search's folder is held.

    Raises:
        DataError: another line than the last is damaged.
    """
    for lock in journal.parent.glob(f"{journal.name}.lock*"):
        lock.unlink()
    if not journal.is_file():
        return
    lines = journal.read_bytes().splitlines(keepends=True)
    whole = 0
    for number, line in enumerate(lines, 1):
        try:
            fits = line.endswith(b"\n") and isinstance(json.loads(line), dict)
        except (ValueError, RecursionError):
            fits = False
        if not fits and number < len(lines):
            raise DataError(
                f"{journal}, line {number}: damaged, expected a line of a search's journal; start"
                " anew with --overwrite true"
            )
        whole += len(line) if fits else 0
    if whole < journal.stat().st_size:
        os.truncate(journal, whole)
        warn(f"{journal}, line {len(lines)}: torn, as by a full disk; it is cut off")


def _check(config: RunConfig, trials: int) -> None:
    if trials < 1:
        raise ConfigError(f"--tune is {trials}, expected at least 1 trial")
    if config.output is None:
        raise ConfigError("--tune needs --output, the folder of the search")
    if not MODELS[config.model].stages:
        raise ConfigError(f"--tune: {config.model} is not trained, so there is nothing to tune")
    for option in ("report", "track", "checkpoint_every"):
        if getattr(config, option):
            raise ConfigError(f"--{option} has no effect beside --tune; give it to the run after")


def _check_space(options: Mapping[str, Any], space: Space) -> None:
    """Check that a run can be made of each end and choice, before any is trained."""
    if not space:
        raise ConfigError("--tune: every option to try is set already, expected one that is not")
    for option, values in space.items():
        if option in (*_FIXED, *WITHOUT_EFFECT, "threads") or option.startswith("synthetic."):
            raise ConfigError(
                f"{option} cannot be tuned: it changes what all trials are compared on, or nothing"
            )
        for value in (values.low, values.high) if isinstance(values, Range) else values:
            try:
                resolve({**options, option: value})
            except ConfigError as error:
                raise ConfigError(f"--tune cannot try {option} {value}: {error}") from error


def _check_study(study: optuna.Study, config: RunConfig, space: Space, data_hash: str) -> None:
    """Check that the journal is one of this search, or note whose it is.

    Raises:
        ConfigError: it is another's.
    """
    free = (*WITHOUT_EFFECT, "threads")
    options = {name: value for name, value in config.as_dict().items() if name not in free}
    tried = {name: vars(x) if isinstance(x, Range) else x for name, x in space.items()}
    ours = json.loads(
        json.dumps(to_json({"options": options, "space": tried, "data_hash": data_hash}))
    )
    theirs = study.user_attrs.get("search")
    if theirs is None:
        study.set_user_attr("search", ours)
    elif theirs != ours:
        different = [name for name in ours if theirs.get(name) != ours[name]]
        raise ConfigError(
            f"{config.output}: holds a search with other {' and '.join(different)}; choose another"
            " folder, or add --overwrite true"
        )


def _try(
    study: optuna.Study,
    options: Mapping[str, Any],
    config: RunConfig,
    space: Space,
    prepared: PreparedData,
    graph: Graph,
    before: int,
) -> None:
    """Run one trial: train with the sampler's next values."""
    import optuna

    # Seeded anew for each, so that a search in two processes tries the same as one in one.
    study.sampler = optuna.samplers.TPESampler(seed=config.seed + before)
    trial = study.ask({name: _distribution(values) for name, values in space.items()})
    started = time.perf_counter()
    try:
        run = settle(resolve({**options, **trial.params}), prepared)
        if run.sampling.inverse != config.sampling.inverse:
            graph = Graph.from_dataset(prepared.dataset, inverse=run.sampling.inverse)
        outcome = loop.train(run, prepared, graph)
        value = max(record.valid for record in outcome.records if record.stage == outcome.stage)
    except (ConfigError, TrainingError) as error:
        # Options that do not go together, or a loss that diverges: no reason to stop the search.
        trial.set_user_attr("error", str(error))
        trial.set_user_attr("seconds", time.perf_counter() - started)
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return
    trial.set_user_attr("seconds", time.perf_counter() - started)
    study.tell(trial, value)


def _distribution(values: Range | tuple[Any, ...]) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if not isinstance(values, Range):
        return CategoricalDistribution(values)
    if isinstance(values.low, int) and isinstance(values.high, int):
        return IntDistribution(values.low, values.high, log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _finished(study: optuna.Study) -> list[Trial]:
    """Finished trials, in the order in which they were tried."""
    import optuna

    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return [
        Trial(
            number,
            math.nan if trial.value is None else trial.value,
            trial.user_attrs["seconds"],
            trial.params,
            trial.user_attrs.get("error"),
        )
        for number, trial in enumerate(study.get_trials(states=states), 1)
    ]


def _worth(trial: Trial) -> tuple[float, int]:
    """Sort key: by value, the earlier of equals first; failed ones last."""
    return (-math.inf if math.isnan(trial.value) else trial.value, -trial.number)


def _write(output: Path, trials: list[Trial]) -> None:
    options = list(dict.fromkeys(name for trial in trials for name in trial.options))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["number", "value", "seconds", "error", *options])
    for trial in trials:
        value = "" if math.isnan(trial.value) else trial.value
        row = [trial.number, value, f"{trial.seconds:.3f}", trial.error or ""]
        table.writerow([*row, *(trial.options.get(name, "") for name in options)])
    write_text(output / TRIALS_FILE, text.getvalue())
