"""Export of the scoring model: a graph of its own for `torch.export`, and as ONNX."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ekpnet_fast.errors import ConfigError
from ekpnet_fast.models import Model
from ekpnet_fast.models.base import widened
from ekpnet_fast.models.ekpnet import EKPNet
from ekpnet_fast.ops import reference
from ekpnet_fast.recommender.state import QueryBatch, State
from ekpnet_fast.sampling.pairs import Pairs

INPUTS = ("heads", "relations", "tails", "counts", "items")
MISSING = (
    "export needs onnx, onnxruntime and onnxscript ({}): pip install 'ekpnet_fast[export]', or in"
    " the source folder pip install '.[export]'"
)


class ScoringGraph(nn.Module):
    """Logits of items for one user, of the EKPNet family.

    Attributes:
        model, stage: the model, and the stage of the prediction.
        backend: `ops` or `reference`.
    """

    def __init__(self, state: State, backend: ModuleType) -> None:
        super().__init__()
        self.model = state.model
        self.stage = state.stage
        self.backend = backend
        for name, table in state.tables.items():  # with the rows of entities that were added
            self.register_buffer(f"table_{name}", widened(table))

    def forward(
        self,
        heads: Tensor,  # [1, H, M] int32
        relations: Tensor,  # [1, H, M] int32
        tails: Tensor,  # [1, H, M] int32
        counts: Tensor,  # [1, H] int32
        items: Tensor,  # [B] int32, entities
    ) -> Tensor:
        """Logits [B]."""
        indptr = torch.tensor([0, 1], device=items.device) * items.shape[0]
        pairs = Pairs(
            heads=heads,
            relations=relations,
            tails=tails,
            counts=counts,
            group_indptr=indptr,
            items=items,
        )
        tables = {name: self.get_buffer(f"table_{name}") for name in self.model.tables}
        return self.model.logits(self.backend, tables, pairs, stage=self.stage)


def scoring_inputs(state: State, query: QueryBatch) -> dict[str, NDArray[np.int32]]:
    """Inputs of the graph: one user or history, and all items in the catalogue's order."""
    sets = state.ripple_sets(query)
    values = (sets.heads, sets.relations, sets.tails, sets.counts, state.catalogue)
    return {name: value.numpy().copy() for name, value in zip(INPUTS, values, strict=True)}


def check(state: State) -> None:
    """Refuse a model whose inputs are more than ripple sets and items.

    Raises:
        ConfigError: names the model.
    """
    model = state.model
    if not isinstance(model, EKPNet) or type(model).inputs is not Model.inputs:
        raise ConfigError(
            f"export: model {model.name} cannot be written, expected one of the EKPNet family:"
            " ekpnet, ekp_att, ekp_frame, ekp_no"
        )


def export_onnx(state: State, query: QueryBatch, path: Path) -> float:
    """Write the scoring model in plain operators, and compare it with the native one.

    Args:
        state: of the recommender.
        query: a user or history, for the comparison.
        path: the file; it is whole or not there.

    Returns:
        The largest difference of a logit, over all items, as onnxruntime computes it.

    Raises:
        ConfigError: a model that cannot be written, packages that are missing, or a file that
            cannot be written.
    """
    check(state)
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(MISSING.format(error)) from error
    inputs = scoring_inputs(state, query)
    graph = ScoringGraph(state, reference).eval()
    arguments = tuple(torch.from_numpy(inputs[name]).to(state.device) for name in INPUTS)
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            graph,
            arguments,
            dynamo=True,
            verbose=False,
            input_names=list(INPUTS),
            output_names=["logits"],
            dynamic_shapes=(None, None, None, None, {0: torch.export.Dim.DYNAMIC}),
        )
    assert program is not None
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        program.save(part)
        session = onnxruntime.InferenceSession(str(part), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, inputs)
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror})") from error
    finally:
        part.unlink(missing_ok=True)
    expected = state.scores(query, state.ripple_sets(query), state.catalogue_there)[0].cpu().numpy()
    return float(np.abs(found - expected).max())


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings of packages that it misses, and of what it calls of torch."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        log.setLevel(before)
