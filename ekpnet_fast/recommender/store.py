"""Folder of a recommender, written and read, or made from a run's.

`config.yaml`             every option of the run that trained the model.
`model.safetensors`       the weights, with the rows of entities that were added later.
`graph.safetensors`       the graph as it is now.
`state.safetensors`       histories, what users have touched, the catalogue, added entities.
`index.safetensors`       the index of a large catalogue, where there is one.
`fitted.safetensors`      the graph, the catalogue and the histories that a wide part was fitted to,
                          where they have changed since.
`users.parquet`, `items.parquet`, `entities.parquet`, `relations.parquet`   id and name by number.
`recommender.json`        written last: format, version, counts, which ids are numbers, and size and
                          SHA-256 of the other files and of itself, which reading checks.

Neither this nor a run's folder needs the data set. Only a run without its `context.safetensors`
reads it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ekpnet_fast.config import RunConfig
from ekpnet_fast.data import load_dataset, prepare
from ekpnet_fast.data.ids import Ids
from ekpnet_fast.data.splits import with_validation
from ekpnet_fast.errors import ConfigError, DataError, EkpnetError, reason, told
from ekpnet_fast.models import MODELS, Model
from ekpnet_fast.models.base import widened
from ekpnet_fast.native.build import __version__
from ekpnet_fast.native.defaults import plain_defaults
from ekpnet_fast.native.device import resolve_device
from ekpnet_fast.recommender.item_index import IndexHolder, ItemIndex, read_index, write_index
from ekpnet_fast.recommender.names import Names
from ekpnet_fast.recommender.state import State
from ekpnet_fast.runs import run_folder
from ekpnet_fast.runs.context_file import TABLES, RunContext
from ekpnet_fast.runs.places import moved
from ekpnet_fast.runs.resolve import resolve
from ekpnet_fast.sampling.graph import Graph, check_ids, check_rows
from ekpnet_fast.sampling.pairs import TrainContext
from ekpnet_fast.storage import tensor_file
from ekpnet_fast.storage.files import write_text
from ekpnet_fast.storage.parts import place_of, recover, replaced_folder
from ekpnet_fast.storage.seals import check_files, read_sealed, seal_files, sealed

FORMAT, VERSION = "ekpnet_fast.recommender", 3
MANIFEST, GRAPH_FILE, STATE_FILE = "recommender.json", "graph.safetensors", "state.safetensors"
INDEX_FILE, FITTED_FILE = "index.safetensors", "fitted.safetensors"
OPTIONAL = (INDEX_FILE, FITTED_FILE)
FILES = (
    *(run_folder.CONFIG_FILE, run_folder.MODEL_FILE, GRAPH_FILE, STATE_FILE, *OPTIONAL),
    *(f"{table}.parquet" for table in TABLES),
)
GRAPH_ARRAYS = ("indptr", "relations", "tails")
ARRAYS = (  # of the state
    *("history_indptr", "history_items", "consumed_indptr", "consumed_items"),
    *("catalogue", "added"),
)
FITTED = (*GRAPH_ARRAYS, "catalogue", "history_indptr", "history_items")


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
    """Write a recommender's folder; the old one or the new one is always there, whole.

    Files of others in the folder stay.

    Raises:
        ConfigError: the folder is taken, or cannot be written.
    """
    place = place_of(folder)
    try:
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            if not (place / MANIFEST).is_file():
                raise ConfigError(f"{folder}: found other files, expected a new folder")
            if not overwrite:
                raise ConfigError(f"{folder} holds a recommender; say overwrite=True to replace it")
        with replaced_folder(place, (*FILES, MANIFEST).__contains__) as part:
            _write(state, part)
    except EkpnetError:
        raise
    except Exception as error:  # of the system, or of a library that writes
        raise ConfigError(f"{folder} cannot be written ({reason(error)})") from error


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
    tensors = {name: torch.as_tensor(array) for name, array in _arrays(state).items()}
    tensor_file.write(folder / STATE_FILE, "state", tensors, {})
    fitted = _fitted(state)
    if fitted is not None:
        tensor_file.write(folder / FITTED_FILE, "fitted", fitted, {})
    index = state.index.kept(state)
    if index is not None:
        write_index(folder / INDEX_FILE, index)
    for table in TABLES:
        ids = getattr(state, table).ids
        write_names(folder / f"{table}.parquet", ids.ids, ids.names)
    manifest: dict[str, Any] = {
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
    manifest["files"] = seal_files(folder, FILES)
    write_text(folder / MANIFEST, json.dumps(sealed(manifest), indent=2) + "\n")


def _fitted(state: State) -> dict[str, Tensor] | None:
    """Arrays that a wide part was fitted to, if they are not those of the state as it is."""
    source = state.model.source
    unchanged = source.graph is state.graph and torch.equal(
        source.history_items, state.history_items
    )
    if unchanged or not state.model.as_fitted:
        return None
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
    return dict(zip(FITTED, tensors, strict=True))


# ---- reading -------------------------------------------------------------------------------------


def load(folder: Path, data_root: Path | None, device: str) -> State:
    """Read a recommender's folder, or a run's with its data set.

    Raises:
        DataError: neither, a damaged file, or data that are not those of training.
        ConfigError: a device that cannot be used.
    """
    with told(folder, "the folder of a recommender or of a finished run"), plain_defaults():
        recover(folder)
        if (folder / MANIFEST).is_file():
            return _load_recommender(folder, device)
        if (folder / run_folder.METRICS_FILE).is_file():
            return _load_run(folder, data_root, device)
    raise DataError(
        f"{folder}: found neither {MANIFEST} nor {run_folder.METRICS_FILE}, expected the folder of"
        " a recommender (Recommender.save) or of a finished run (train --output)"
    )


def _load_run(folder: Path, data_root: Path | None, device: str) -> State:
    metrics = run_folder.load_metrics(folder)
    stored = (folder / run_folder.CONTEXT_FILE).is_file()
    read = (run_folder.CONFIG_FILE, run_folder.MODEL_FILE)
    run_folder.check_run(folder, metrics, (*read, run_folder.CONTEXT_FILE) if stored else read)
    config = resolve({**moved(run_folder.read_config(folder), data_root), "device": device})
    there = resolve_device(device)
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
    prepared = prepare(dataset, config.seed, config.protocol, config.cut)
    if config.refit:
        prepared = with_validation(prepared)
    graph = Graph.from_dataset(dataset, inverse=config.sampling.inverse)
    return RunContext.of(prepared, graph)


def _load_recommender(folder: Path, device: str) -> State:
    expected = "the manifest of a recommender"
    manifest = read_sealed(folder / MANIFEST, expected, format=FORMAT, version=VERSION)
    files = manifest["files"]
    read = tuple(name for name in FILES if name not in OPTIONAL or name in files)
    check_files(folder / MANIFEST, files, read)
    there = resolve_device(device)
    config = resolve({**run_folder.read_config(folder), "device": device})
    graph = Graph.load(folder / GRAPH_FILE, checked=True)
    tensors, _ = tensor_file.read(
        folder / STATE_FILE, "state", "Recommender.save", tensors=ARRAYS, checked=True
    )
    names = {table: _read_names(folder, table, manifest) for table in TABLES}
    _check(folder, graph, tensors, names)
    arrays = {name: tensors[name] for name in ARRAYS}
    fitted = None
    if FITTED_FILE in files:
        fitted, _ = tensor_file.read(
            folder / FITTED_FILE, "fitted", "Recommender.save", tensors=FITTED, checked=True
        )
    trained = (manifest["trained_users"], manifest["trained_items"])
    source = _source(config, graph, arrays, names, trained)
    if fitted is not None:
        source = _fitted_to(folder / FITTED_FILE, source, fitted)
    model = MODELS[config.model](config, source)
    stage, data_hash = run_folder.load_model(folder, model)
    index = None
    if INDEX_FILE in files:
        index = read_index(folder / INDEX_FILE, tensors["catalogue"])
    return _state(config, model.to(there), stage, graph, arrays, names, data_hash, index)


# ---- copies --------------------------------------------------------------------------------------


def packed(state: State) -> dict[str, Any]:
    """State as plain values, to be sent to another process: what `save` writes, in memory."""
    weights = {**state.model.state_dict(), **state.tables}
    index, fitted = state.index.kept(state), _fitted(state)
    return {
        "config": state.config,
        "stage": state.stage,
        "weights": {name: widened(x.detach()).cpu().numpy() for name, x in weights.items()},
        "graph": {
            **vars(state.graph),
            **{name: getattr(state.graph, name).numpy() for name in GRAPH_ARRAYS},
        },
        "arrays": {name: np.asarray(array) for name, array in _arrays(state).items()},
        "names": {
            table: (names.ids.kind, names.ids.ids, names.ids.names, names.numbered)
            for table in TABLES
            for names in [getattr(state, table)]
        },
        "trained": (state.model.source.num_users, state.model.source.num_items),
        "fitted": None if fitted is None else {name: x.numpy() for name, x in fitted.items()},
        "data_hash": state.data_hash,
        "index": None if index is None else {**vars(index), "catalogue": index.catalogue.numpy()},
        "device": state.device.type,
    }


def unpacked(content: Mapping[str, Any]) -> State:
    """State of the values that `packed` gave; on the CPU where its device is not here."""
    config: RunConfig = content["config"]
    try:
        device = resolve_device(content["device"])
    except ConfigError:
        device = torch.device("cpu")
    graph = content["graph"]
    graph = Graph(**{**graph, **{name: _tensor(graph[name]) for name in GRAPH_ARRAYS}})
    arrays = {name: _tensor(array) for name, array in content["arrays"].items()}
    names = {
        table: Names(Ids(kind, ids, shown), numbered=numbered)
        for table, (kind, ids, shown, numbered) in content["names"].items()
    }
    with plain_defaults():
        source = _source(config, graph, arrays, names, content["trained"])
        fitted = content["fitted"]
        if fitted is not None:
            tensors = {name: _tensor(x) for name, x in fitted.items()}
            source = _fitted_to(Path(FITTED_FILE), source, tensors)
        model = MODELS[config.model](config, source)
    model.load_state_dict({name: _tensor(x) for name, x in content["weights"].items()})
    index = content["index"]
    if index is not None:
        index = ItemIndex(**{**index, "catalogue": _tensor(index["catalogue"])})
    stage, data_hash = content["stage"], content["data_hash"]
    return _state(config, model.to(device), stage, graph, arrays, names, data_hash, index)


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.require(array, requirements="W"))


def _arrays(state: State) -> dict[str, Any]:
    return {name: getattr(state, name) for name in ARRAYS}


def _source(
    config: RunConfig,
    graph: Graph,
    arrays: Mapping[str, Tensor],
    names: Mapping[str, Names],
    trained: tuple[int, int],  # users and items
) -> TrainContext:
    """Context of a recommender's model, its weights to be loaded."""
    return TrainContext(
        graph,
        *trained,
        arrays["history_indptr"],
        arrays["history_items"],
        config.seed,
        names["items"].ids.names,
        arrays["catalogue"],
    )


def _state(
    config: RunConfig,
    model: Model,
    stage: str,
    graph: Graph,
    arrays: Mapping[str, Tensor],
    names: Mapping[str, Names],
    data_hash: str,
    index: ItemIndex | None,
) -> State:
    model.eval()
    state = State(
        config=config,
        model=model,
        stage=stage,
        tables={name: model.table(name) for name in model.tables},
        graph=graph,
        catalogue=arrays["catalogue"],
        **names,
        history_indptr=arrays["history_indptr"],
        history_items=arrays["history_items"],
        consumed_indptr=arrays["consumed_indptr"].numpy(),
        consumed_items=arrays["consumed_items"].numpy(),
        added=arrays["added"].numpy(),
        data_hash=data_hash,
        index=IndexHolder(index),
    )
    _ = state.scorer  # what follows from changes is computed here and not by the first answer
    return state


def _fitted_to(path: Path, source: TrainContext, fitted: Mapping[str, Tensor]) -> TrainContext:
    """Context that a wide part was fitted to.

    Args:
        path: of the arrays, for messages.
        source: context of the state as it is.
        fitted: arrays as `_fitted` gives them.
    """
    E, R = source.graph.num_entities, source.graph.num_relations
    indptr, tails = fitted["indptr"], fitted["tails"]
    for name, expected in (
        ("indptr", E + 1),
        ("relations", len(tails)),
        ("catalogue", source.num_items),
    ):
        if len(fitted[name]) != expected:
            raise DataError(f"{path}: found {len(fitted[name])} {name}, expected {expected}")
    check_rows(path, "indptr", indptr, len(tails))
    check_rows(path, "history_indptr", fitted["history_indptr"], len(fitted["history_items"]))
    for name, limit in (("tails", E), ("relations", R), ("catalogue", E), ("history_items", E)):
        check_ids(path, name, fitted[name], limit)
    graph = replace(source.graph, indptr=indptr, relations=fitted["relations"], tails=tails)
    return replace(
        source,
        graph=graph,
        history_indptr=fitted["history_indptr"],
        history_items=fitted["history_items"],
        catalogue=fitted["catalogue"],
    )


# ---- parts ---------------------------------------------------------------------------------------


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
    ):
        if found != expected:
            raise DataError(
                f"{folder}: found files of different recommenders ({found} and {expected} where"
                " they should agree), expected those of one"
            )
    path = folder / STATE_FILE
    for name in ("history", "consumed"):
        check_rows(path, f"{name}_indptr", tensors[f"{name}_indptr"], len(tensors[f"{name}_items"]))
    for name, limit in (
        ("history_items", graph.num_entities),
        ("catalogue", graph.num_entities),
        ("added", graph.num_entities),
        ("consumed_items", items),
    ):
        check_ids(path, name, tensors[name], limit)
