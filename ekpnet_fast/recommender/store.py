"""Folder of a recommender, written and read, or made from a run's.

`config.yaml`             every option of the run that trained the model.
`model.safetensors`       the weights, with the rows of entities that were added later.
`graph.safetensors`       the graph as it is now.
`state.safetensors`       histories, what users have touched, the catalogue, added entities.
`index.safetensors`       the index of a large catalogue, where there is one.
`fitted.safetensors`      the graph, the catalogue and the histories that a wide part was fitted to,
                          where they have changed since.
`users.parquet`, `items.parquet`, `entities.parquet`, `relations.parquet`   id and name by number.
`recommender.json`        written last: format, version, counts, and which ids are numbers.

Neither this nor a run's folder needs the data set. Only a run without its `context.safetensors`
reads it again.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ekpnet_fast.config import RunConfig
from ekpnet_fast.data import load_dataset, prepare
from ekpnet_fast.data.ids import Ids
from ekpnet_fast.data.splits import with_validation
from ekpnet_fast.errors import ConfigError, DataError
from ekpnet_fast.models import MODELS, Model
from ekpnet_fast.native.build import __version__
from ekpnet_fast.native.device import resolve_device
from ekpnet_fast.recommender.item_index import IndexHolder, read_index, write_index
from ekpnet_fast.recommender.names import Names
from ekpnet_fast.recommender.state import State
from ekpnet_fast.runs import run_folder
from ekpnet_fast.runs.context_file import TABLES, RunContext
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.pairs import TrainContext
from ekpnet_fast.storage import tensor_file
from ekpnet_fast.storage.files import write_text

FORMAT, VERSION = "ekpnet_fast.recommender", 1
MANIFEST, GRAPH_FILE, STATE_FILE = "recommender.json", "graph.safetensors", "state.safetensors"
INDEX_FILE, FITTED_FILE = "index.safetensors", "fitted.safetensors"
_FITTED = ("indptr", "relations", "tails", "catalogue", "history_indptr", "history_items")


def state_of(config: RunConfig, context: RunContext, model: Model, stage: str) -> State:
    """Make the state of a model that was just trained, or read from a run's folder."""
    names = {t: Names(context.ids[t], numbered=context.numbered[t]) for t in TABLES}
    model.eval()
    return State(
        config=config,
        model=model,
        stage=stage,
        tables={name: model.table(name) for name in model.tables},
        graph=context.graph,
        catalogue=torch.arange(len(names["items"]), dtype=torch.int32),
        **names,
        history_indptr=context.history_indptr,
        history_items=context.history_items,
        consumed_indptr=context.consumed_indptr.numpy(),
        consumed_items=context.consumed_items.numpy(),
        added=np.zeros(0, dtype=np.int32),
        data_hash=context.data_hash,
        index=IndexHolder(),
    )


# ---- writing -------------------------------------------------------------------------------------


def save(state: State, folder: Path, *, overwrite: bool) -> None:
    """Write a recommender's folder; it is whole or not there.

    Raises:
        ConfigError: the folder is taken, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not (folder / MANIFEST).is_file():
            raise ConfigError(f"{folder}: found other files, expected a new folder")
        if not overwrite:
            raise ConfigError(f"{folder} holds a recommender; say overwrite=True to replace it")
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        _write(state, part)
        if folder.is_dir():
            shutil.rmtree(folder)
        part.replace(folder)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write(state: State, folder: Path) -> None:
    # Here, because a run's folder is read without it.
    from ekpnet_fast.data.formats.parquet import write_names

    run_folder.save_config(folder, state.config.without_output())
    weights = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in {**state.model.state_dict(), **state.tables}.items()
    }
    facts = {"stage": state.stage, "data_hash": state.data_hash}
    tensor_file.write(folder / run_folder.MODEL_FILE, "model", weights, facts)
    state.graph.save(folder / GRAPH_FILE)
    tensors = {
        "history_indptr": state.history_indptr,
        "history_items": state.history_items,
        "consumed_indptr": torch.from_numpy(state.consumed_indptr),
        "consumed_items": torch.from_numpy(state.consumed_items),
        "catalogue": state.catalogue,
        "added": torch.from_numpy(state.added),
    }
    tensor_file.write(folder / STATE_FILE, "state", tensors, {})
    _write_fitted(state, folder)
    index = state.index.kept(state)
    if index is not None:
        write_index(folder / INDEX_FILE, index)
    for table in TABLES:
        ids = getattr(state, table).ids
        write_names(folder / f"{table}.parquet", ids.ids, ids.names)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "written_by": __version__,
        "model": state.config.model,
        "dataset": state.config.dataset,
        "data_hash": state.data_hash,
        "counts": {table: len(getattr(state, table)) for table in TABLES},
        "trained_items": state.model.source.num_items,
        "trained_users": state.model.source.num_users,
        "numbered": {table: getattr(state, table).numbered for table in TABLES},
    }
    write_text(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")


def _write_fitted(state: State, folder: Path) -> None:
    """Write what a wide part was fitted to, if that is not the state as it is."""
    source = state.model.source
    unchanged = source.graph is state.graph and torch.equal(
        source.history_items, state.history_items
    )
    if unchanged or not state.model.as_fitted:
        return
    # With as many entities as there are now, because weights have a row for each.
    more = state.graph.num_entities - source.graph.num_entities
    indptr = source.graph.indptr
    catalogue = source.catalogue
    if catalogue is None:
        catalogue = torch.arange(source.num_items, dtype=torch.int32)
    tensors = (
        torch.cat([indptr, indptr[-1:].expand(more)]),
        source.graph.relations,
        source.graph.tails,
        catalogue,
        source.history_indptr,
        source.history_items,
    )
    tensor_file.write(folder / FITTED_FILE, "fitted", dict(zip(_FITTED, tensors, strict=True)), {})


# ---- reading -------------------------------------------------------------------------------------


def load(folder: Path, data_root: Path | None, device: str) -> State:
    """Read a recommender's folder, or a run's with its data set.

    Raises:
        DataError: neither, a damaged file, or data that are not those of training.
        ConfigError: a device that cannot be used.
    """
    if (folder / MANIFEST).is_file():
        return _load_recommender(folder, device)
    if (folder / run_folder.METRICS_FILE).is_file():
        return _load_run(folder, data_root, device)
    raise DataError(
        f"{folder}: found neither {MANIFEST} nor {run_folder.METRICS_FILE}, expected the folder of"
        " a recommender (Recommender.save) or of a finished run (train --output)"
    )


def _load_run(folder: Path, data_root: Path | None, device: str) -> State:
    run_folder.load_metrics(folder)
    root = {} if data_root is None else {"data_root": data_root}
    config = resolve({**run_folder.read_config(folder), **root, "device": device})
    there = resolve_device(device)
    stored = (folder / run_folder.CONTEXT_FILE).is_file()
    context = RunContext.read(folder) if stored else _context_of_data(config)
    source = TrainContext(
        context.graph,
        len(context.ids["users"]),
        len(context.ids["items"]),
        context.history_indptr,
        context.history_items,
        config.seed,
        context.ids["items"].names,
    )
    model = MODELS[config.model](config, source)
    stage, data_hash = run_folder.load_model(folder, model)
    if context.data_hash != data_hash:
        raise DataError(
            f"{folder}: trained on data with hash {data_hash}, found {context.data_hash};"
            f" {run_folder.CONTEXT_FILE if stored else 'the files of the data set'} have changed"
        )
    return state_of(config, context, model.to(there), stage)


def _context_of_data(config: RunConfig) -> RunContext:
    """Context of a run's data set, split as the run did."""
    dataset = load_dataset(
        config.dataset,
        config.data_root,
        synthetic=config.synthetic if config.dataset == "synthetic" else None,
        threshold=config.threshold,
    )
    prepared = prepare(dataset, config.seed, config.protocol)
    if config.refit:
        prepared = with_validation(prepared)
    graph = Graph.from_dataset(dataset, inverse=config.sampling.inverse)
    return RunContext.of(prepared, graph)


def _load_recommender(folder: Path, device: str) -> State:
    manifest = _manifest(folder)
    there = resolve_device(device)
    config = resolve({**run_folder.read_config(folder), "device": device})
    graph = Graph.load(folder / GRAPH_FILE)
    tensors, _ = tensor_file.read(
        folder / STATE_FILE,
        "state",
        "Recommender.save",
        tensors=(
            *("history_indptr", "history_items", "consumed_indptr", "consumed_items", "catalogue"),
            "added",
        ),
    )
    names = {table: _read_names(folder, table, manifest) for table in TABLES}
    _check(folder, graph, tensors, names)
    source = TrainContext(
        graph,
        manifest["trained_users"],
        manifest["trained_items"],
        tensors["history_indptr"],
        tensors["history_items"],
        config.seed,
        names["items"].ids.names,
        tensors["catalogue"],
    )
    model = MODELS[config.model](config, _fitted_to(folder, source))
    stage, data_hash = run_folder.load_model(folder, model)
    model.to(there).eval()
    index = None
    if (folder / INDEX_FILE).is_file():
        index = read_index(folder / INDEX_FILE, tensors["catalogue"])
    state = State(
        config=config,
        model=model,
        stage=stage,
        tables={name: model.table(name) for name in model.tables},
        graph=graph,
        catalogue=tensors["catalogue"],
        **names,
        history_indptr=tensors["history_indptr"],
        history_items=tensors["history_items"],
        consumed_indptr=tensors["consumed_indptr"].numpy(),
        consumed_items=tensors["consumed_items"].numpy(),
        added=tensors["added"].numpy(),
        data_hash=data_hash,
        index=IndexHolder(index),
    )
    _ = state.scorer  # what follows from changes is computed here and not by the first answer
    return state


def _fitted_to(folder: Path, source: TrainContext) -> TrainContext:
    """Context that a wide part was fitted to; where no file holds it, that of the state."""
    path = folder / FITTED_FILE
    if not path.is_file():
        return source
    tensors, _ = tensor_file.read(path, "fitted", "Recommender.save", tensors=_FITTED)
    indptr, tails = tensors["indptr"], tensors["tails"]
    for name, found, expected in (
        ("indptr", len(indptr), source.graph.num_entities + 1),
        ("tails", len(tails), int(indptr[-1])),
        ("relations", len(tensors["relations"]), len(tails)),
        ("catalogue", len(tensors["catalogue"]), source.num_items),
        (
            "history_items",
            len(tensors["history_items"]),
            int(tensors["history_indptr"][-1]),
        ),
    ):
        if found != expected:
            raise DataError(f"{path}: found {found} {name}, expected {expected}")
    for name, limit in (
        ("tails", source.graph.num_entities),
        ("relations", source.graph.num_relations),
        ("catalogue", source.graph.num_entities),
        ("history_items", source.graph.num_entities),
    ):
        ids = tensors[name]
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < limit:
            raise DataError(f"{path}: found ids in {name} beyond {limit - 1}")
    graph = replace(source.graph, indptr=indptr, relations=tensors["relations"], tails=tails)
    return replace(
        source,
        graph=graph,
        history_indptr=tensors["history_indptr"],
        history_items=tensors["history_items"],
        catalogue=tensors["catalogue"],
    )


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error})") from error
    found = (manifest.get("format"), manifest.get("version"))
    if found != (FORMAT, VERSION):
        shown = f"format {found[0]!r}, version {found[1]!r}"
        raise DataError.about(path, None, shown, f"{FORMAT!r}, {VERSION}")
    return manifest


def _read_names(folder: Path, table: str, manifest: dict[str, Any]) -> Names:
    from ekpnet_fast.data.formats.parquet import read_names

    path = folder / f"{table}.parquet"
    found, names = read_names(path, "what Recommender.save writes")
    count = manifest["counts"][table]
    if len(found) != count:
        raise DataError.about(path, None, f"{len(found)} rows", f"{count} of texts id, name")
    ids = Ids(TABLES[table], found, names)
    return Names(ids, numbered=manifest["numbered"][table])


def _check(
    folder: Path, graph: Graph, tensors: dict[str, torch.Tensor], names: dict[str, Names]
) -> None:
    """Check that the files belong together, because native code indexes with their numbers."""
    users, items = len(names["users"]), len(names["items"])
    relations = len(names["relations"]) * (2 if graph.inverse else 1)
    for found, expected in (
        (graph.num_entities, len(names["entities"])),
        (graph.num_relations, relations),
        (len(tensors["catalogue"]), items),
        (len(tensors["history_indptr"]), users + 1),
        (len(tensors["consumed_indptr"]), users + 1),
        (int(tensors["history_indptr"][-1]), len(tensors["history_items"])),
        (int(tensors["consumed_indptr"][-1]), len(tensors["consumed_items"])),
    ):
        if found != expected:
            raise DataError(
                f"{folder}: found files of different recommenders ({found} and {expected} where"
                " they should agree), expected those of one"
            )
    for name, limit in (
        ("history_items", graph.num_entities),
        ("catalogue", graph.num_entities),
        ("consumed_items", items),
    ):
        ids = tensors[name]
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= limit):
            raise DataError(f"{folder / STATE_FILE}: found ids in {name} beyond {limit - 1}")
