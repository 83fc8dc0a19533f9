"""What a run leaves in its folder, and how it is read back.

`config.yaml`        every option of the run, resolved; `--config` takes it.
`model.safetensors`  the weights, and in its metadata `stage` and `data_hash`.
`metrics.json`       written last, so a folder without it holds no result:
    format, version       "ekpnet_fast.run" and the package's version
    dataset, model, protocol, seed   as configured
    data_hash             of the prepared data (`PreparedData.hash`)
    users, dropped_users, dropped_rows   users of the data set; left out for an empty history
    epochs                a record per epoch: stage, epoch, loss and its terms bce, kg, weights,
                          rows (per pair), valid_auc or valid_mrr (at 10, protocol "recbole"; null
                          in a stage without pairs), seconds, samples_per_second; none for a model
                          without stages
    test                  null under the protocol "recbole", which has no negative rows; else auc,
                          acc, auc_seen (rows whose item has a train positive), gauc
    popularity            the same for item popularity; popularity_auc repeats its auc
    oracle_auc            of the generator's own Bayes score, synthetic data only, else null
    ranking, popularity_ranking   per K of 1, 2, 5, 10, 20, 50, 100: precision, recall, f1, ndcg,
                          hit, mrr; null without --ranking
    seconds               per part: load, prepare, sampling, the stages, evaluate, total
    samples_per_second    training pairs per second over all epochs; null without any
    peak_rss_mb           largest resident memory of the process
    environment           torch, Python, processor, instruction set, threads, device
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from ekpnet_fast import tensor_file
from ekpnet_fast.config import RunConfig
from ekpnet_fast.errors import ConfigError, DataError
from ekpnet_fast.models import Model

CONFIG_FILE, MODEL_FILE, METRICS_FILE = "config.yaml", "model.safetensors", "metrics.json"
RUN_FORMAT = "ekpnet_fast.run"


def open_output(output: Path, *, overwrite: bool) -> None:
    """Make a run's folder before any work is done, and take an old result out of it.

    Raises:
        ConfigError: it cannot be written, or it holds a run and `overwrite` is not set.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise ConfigError(
            f"--output {output} cannot be written ({error.strerror}), expected a folder or a place"
            " to make one"
        ) from error
    if (output / METRICS_FILE).exists():
        if not overwrite:
            raise ConfigError(
                f"--output {output} holds a run; choose another folder or add --overwrite true"
            )
        (output / METRICS_FILE).unlink()


def save_config(output: Path, config: RunConfig) -> None:
    """Write `config.yaml`."""
    text = yaml.safe_dump(config.as_dict(), sort_keys=False)
    write_text(output / CONFIG_FILE, text)


def save_model(output: Path, model: Model, *, stage: str, data_hash: str) -> None:
    """Write `model.safetensors`."""
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    facts = {"stage": stage, "data_hash": data_hash}
    _write(output / MODEL_FILE, lambda path: tensor_file.write(path, "model", tensors, facts))


def load_model(output: Path, model: Model) -> tuple[str, str]:
    """Read `model.safetensors` into a model; returns the stage whose prediction it gives, and the
    hash of the data it was trained on.

    Raises:
        DataError: the file is missing, damaged, or of another shape.
    """
    path = output / MODEL_FILE
    tensors, facts = tensor_file.read(path, "model", "a training run", facts=("stage", "data_hash"))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise DataError(f"{path}: does not fit the run's {CONFIG_FILE} ({error})") from error
    return facts["stage"], facts["data_hash"]


def save_metrics(output: Path, metrics: dict[str, Any]) -> None:
    """Write `metrics.json`; values that are not finite become null."""
    text = json.dumps(_plain(metrics), indent=2, allow_nan=False) + "\n"
    write_text(output / METRICS_FILE, text)


def load_metrics(output: Path) -> dict[str, Any]:
    """Read `metrics.json`.

    Raises:
        DataError: the folder holds no finished run.
    """
    path = output / METRICS_FILE
    try:
        metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file, expected the folder of a finished run") from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error})") from error
    if metrics.get("format") != RUN_FORMAT:
        raise DataError(f"{path}: found format {metrics.get('format')!r}, expected {RUN_FORMAT!r}")
    return metrics


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        ConfigError: it cannot be written.
    """
    _write(path, lambda part: part.write_text(text, encoding="utf-8"))


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside the target, then rename: a file is whole or not there."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        write(part)
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror})") from error
    finally:
        part.unlink(missing_ok=True)
