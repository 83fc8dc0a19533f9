"""Files in a run's folder, written and read back.

The files, and the fields of `metrics.json`:

    config.yaml        every option of the run, resolved; --config takes it. Written first, and
                       again when the data are there, with the options that follow from them.
    checkpoint-*       while it is not finished: see ekpnet_fast.storage.checkpoint.
    model.safetensors  the weights, and in its metadata stage and data_hash.
    context.safetensors  graph, histories and ids, with which the run is a recommender without its
                       data set: see ekpnet_fast.runs.context_file.
    report.html        with --report: the run on one page.
    metrics.json       written last, so a folder without it holds no result:
      format, version       "ekpnet_fast.run/3" and the package's version
      dataset, model, protocol, seed   as configured
      auto                  options that followed from the data, by dotted name
      data_hash             of the prepared data (PreparedData.hash)
      users, dropped_users, dropped_examples   users of the data set; left out for an empty history
      split                 under the protocols "fixed", "temporal" and "temporal_user" train,
                            valid, test (positives), held_out_users, overlapping, unranked_users,
                            repeated, new_users, new_items, by_time, valid_from, test_from (see
                            ekpnet_fast.data.tables.SplitCounts), else null
      epochs                a record per epoch: stage, epoch, loss and its terms pairs, kg,
                            l2_weights, l2_rows (per pair), valid_auc or valid_mrr (at 10, protocol
                            "recbole") or valid_ndcg (at 20, protocols "fixed" and by time; null
                            in a stage without pairs), seconds, samples_per_second; none for a
                            model without stages
      refit                 with --refit the epochs by stage and their records; else null
      validated_users       users whose lists chose the epochs; null where none did
      test                  null under the protocols that rank, which have no negatives; else auc,
                            acc, auc_warm (examples of warm items), gauc
      popularity            the same for item popularity; popularity_auc repeats its auc
      oracle_auc            of the generator's own Bayes score, synthetic data only, else null
      ranked_users          users that the lists are of; null without --ranking
      ranking, popularity_ranking   per K of 1, 2, 5, 10, 20, 50, 100 and --ks: precision, recall,
                            f1, ndcg, hit, mrr, map, coverage, gini, novelty, and of the
                            first seven precision_low, precision_high, recall_low, ... (see
                            ekpnet_fast.evaluation.ranking.report_ranking); null without --ranking
      weights               rise of the linear part's curve of each feature; null without that part
      seconds               per part: load, prepare, sampling, fit_features (before the stages), the
                            stages, refit, evaluate, total; of a resumed run the stages and the
                            total count all processes
      cpu_seconds           of all threads of the process that finished the run, while it ran
      resumed               how often the run was resumed
      samples_per_second    training pairs per second over all epochs; null without any
      peak_rss_mb           largest resident memory of the process
      environment           torch, Python, processor, instruction set, threads and why so many,
                            device, and processes where several trained (peak_rss_mb is the first's)
      files                 size and SHA-256 of the other files: reading one checks it
      sha256                of all that is above
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ekpnet_fast.config import RunConfig
from ekpnet_fast.errors import ConfigError, DataError, reason, told
from ekpnet_fast.models import Model
from ekpnet_fast.storage import checkpoint, tensor_file
from ekpnet_fast.storage.files import to_json, write_text, write_whole
from ekpnet_fast.storage.parts import remove_unfinished
from ekpnet_fast.storage.seals import check_files, read_sealed, seal_files, sealed
from ekpnet_fast.storage.yaml_file import read_yaml

CONFIG_FILE, MODEL_FILE, METRICS_FILE = "config.yaml", "model.safetensors", "metrics.json"
CONTEXT_FILE, REPORT_FILE = "context.safetensors", "report.html"
RUN_FORMAT = "ekpnet_fast.run/3"


@contextmanager
def open_output(output: Path, *, overwrite: bool, resume: bool = False) -> Iterator[None]:
    """Open a run's folder, held against other runs inside the block.

    Made before any work is done; unless the run in it is to be resumed, the files of an old run
    are removed.

    Raises:
        ConfigError: it cannot be written, another run works there, it holds a run and neither
            `overwrite` nor `resume` is set, or it holds none to resume.
    """
    try:
        if not resume:
            output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
        folder = os.open(output, os.O_RDONLY)
    except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
        raise ConfigError(
            f"--output {output} cannot be written ({reason(error)}), expected a folder or a place"
            " to make one"
        ) from error
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"--output {output}: another run works there; wait for it, or choose another folder"
            ) from error
        except OSError:
            pass  # a file system that cannot lock: what writes there is whole all the same
        remove_unfinished(output)
        finished = (output / METRICS_FILE).exists()
        unfinished = not finished and any(output.glob("checkpoint-*.json"))
        if resume and finished:
            checkpoint.remove_all(output)  # of a run that was killed between result and this
            raise ConfigError(f"--resume {output}: the run is finished, nothing is left to do")
        if not resume and not overwrite and (finished or unfinished):
            what = "a run" if finished else "an unfinished run; go on with it by --resume"
            raise ConfigError(
                f"--output {output} holds {what}; choose another folder or add --overwrite true"
            )
        if not resume:
            for name in (METRICS_FILE, MODEL_FILE, CONTEXT_FILE, REPORT_FILE):
                (output / name).unlink(missing_ok=True)
            checkpoint.remove_all(output)
        yield
    finally:
        os.close(folder)


def save_config(output: Path, config: RunConfig) -> None:
    """Write `config.yaml`."""
    text = yaml.safe_dump(config.as_dict(), sort_keys=False)
    write_text(output / CONFIG_FILE, text)


def read_config(output: Path) -> dict[str, Any]:
    """Read `config.yaml`: the options of a run, nested, for `resolve`.

    Raises:
        DataError: there is none, or it is no mapping.
    """
    path = output / CONFIG_FILE
    if not path.is_file():
        raise DataError(f"{output}: has no {CONFIG_FILE}, expected the folder of a run")
    options = read_yaml(path)
    if not isinstance(options, dict):
        raise DataError(f"{path}: found {type(options).__name__}, expected options by name")
    return options


def save_model(output: Path, model: Model, *, stage: str, data_hash: str) -> None:
    """Write `model.safetensors`."""
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    facts = {"stage": stage, "data_hash": data_hash}
    write_whole(output / MODEL_FILE, lambda path: tensor_file.write(path, "model", tensors, facts))


def load_model(output: Path, model: Model) -> tuple[str, str]:
    """Read `model.safetensors`, checked before, into a model; returns the stage whose prediction it
    gives, and the hash of the data it was trained on.

    Raises:
        DataError: the file is missing, of another shape, or has weights that are no numbers.
    """
    path = output / MODEL_FILE
    facts_of = ("stage", "data_hash")
    tensors, facts = tensor_file.read(path, "model", "a training run", facts=facts_of, checked=True)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise DataError(f"{path}: found weights in {name} that are no numbers, expected all")
    with told(path, f"weights that fit the run's {CONFIG_FILE}"):
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise DataError(f"{path}: does not fit the run's {CONFIG_FILE} ({error})") from error
    return str(facts["stage"]), str(facts["data_hash"])


def save_metrics(output: Path, metrics: dict[str, Any]) -> None:
    """Write `metrics.json`, which seals the other files; values that are not finite become null."""
    files = seal_files(output, (CONFIG_FILE, MODEL_FILE, CONTEXT_FILE, REPORT_FILE))
    content = sealed({**to_json(metrics), "files": files})
    write_text(output / METRICS_FILE, json.dumps(content, indent=2, allow_nan=False) + "\n")


def load_metrics(output: Path) -> dict[str, Any]:
    """Read `metrics.json`.

    Raises:
        DataError: the folder holds no finished run, or one of an earlier version.
    """
    expected = "the folder of a finished run"
    return read_sealed(output / METRICS_FILE, expected, format=RUN_FORMAT)


def check_run(output: Path, metrics: Mapping[str, Any], names: Iterable[str]) -> None:
    """Check that files of a finished run are those that its `metrics.json` was written with.

    Raises:
        DataError: one is not; names it.
    """
    check_files(output / METRICS_FILE, metrics.get("files"), names)
