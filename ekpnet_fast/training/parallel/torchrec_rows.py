"""Rows in TorchRec: its row-wise sharding and its fused optimizers, behind the calls of `Router`.

What process r has is block r of a TorchRec table, in the order of `Sharding`, which spreads popular
rows; blocks have the length of the longest, and a model's table is a view of this process's block.
FBGEMM's rows have a multiple of four floats, so others end in zeros, which stay zeros; the mean of
squares that row-wise Adagrad keeps for a row counts them.
Rows and gradients travel by TorchRec, all else by `exchange`. The owner adds gradients up in the
order that they come in, so another number of processes changes the last bits.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from types import ModuleType

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import Tensor
from torch import distributed as dist
from torch.nn.functional import pad
from torchrec import EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor
from torchrec.distributed import comm_ops
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
from torchrec.distributed.types import ShardingEnv

from ekpnet_fast.config import StageConfig
from ekpnet_fast.models import Model
from ekpnet_fast.training.parallel.routes import Asked, Route, Router, exchange_joined, joined
from ekpnet_fast.training.parallel.shards import Sharding, held_by
from ekpnet_fast.training.parallel.tables import SharedTables
from ekpnet_fast.training.state import StepState

__all__ = ["TorchrecRouter"]

# TorchRec calls what torch warns of, once in each process.
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)

_OPTIMIZERS = {
    "sgd": EmbOptimType.EXACT_SGD,
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
}
_FLOATS = 4  # whose multiples FBGEMM's rows have
_EPS = 1e-8  # of Adagrad's divisor


class TorchrecRouter(Router):
    """Router of rows that TorchRec has and updates.

    Args:
        model: gets tables that are views of TorchRec's memory.
        tables: those of the model.
        stage: the stage's options.
        optimizer: as `ParallelConfig.optimizer`.

    Attributes:
        moments: by table, of the rows of this process; none of `sgd`.
    """

    def __init__(
        self, model: Model, tables: SharedTables, stage: StageConfig, optimizer: str
    ) -> None:
        super().__init__(tables.shardings, model.tables, tables.world)
        comm_ops.set_gradient_division(False)  # gradients are of the whole mini-batch already
        with tables.world.answered():  # the processes agree on who has what
            self._rows = {
                name: _Rows(name, model.table(name), tables.shardings[space], optimizer, stage.lr)
                for name, space in model.tables.items()
            }
        for name, rows in self._rows.items():
            tables.put(name, rows.mine)
        self.moments = {
            name: rows.moment for name, rows in self._rows.items() if rows.moment is not None
        }
        decays = stage.lambda3 > 0
        self._decayed = {name for name in model.tables if decays and name not in model.undecayed}
        self._found: dict[str, Tensor] = {}
        self._grads: Mapping[str, Sequence[Tensor]] = {}

    def fetch(
        self,
        routes: Mapping[str, Route],
        tables: Mapping[str, Tensor],
        following: Mapping[str, Asked],
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Rows [n, ...] by table, and counts, as `Router.fetch`."""
        counts = exchange_joined(self._world, self._counts(following))
        leaves = {}
        for name, space in self._tables.items():
            asked, rows = routes[space].asked, self._rows[name]
            # Decay of a row is its owner's part of the gradient, because others see it repeatedly.
            own = routes[space].touched if name in self._decayed else asked.rows[:0]
            with self._world.answered():
                self._found[name] = found = rows.look_up(asked, own)
            shape = rows.mine.shape[1:]
            leaf = found.detach()[: len(asked.rows), : math.prod(shape)]
            leaves[name] = leaf.reshape(-1, *shape)
        return leaves, counts

    def give_back(
        self,
        routes: Mapping[str, Route],
        grads: Mapping[str, Sequence[Tensor]],
        report: Tensor,
        following: Mapping[str, Asked],
        counts: Sequence[Tensor],
    ) -> tuple[dict[str, Tensor], Tensor, dict[str, Route]]:
        """No sums, because TorchRec makes them in `update`; the rest as `Router.give_back`."""
        self._grads = grads
        reports, _, told = self._told(report, [], following, counts)
        return {}, reports, told

    def update(
        self,
        state: StepState,
        backend: ModuleType,
        routes: Mapping[str, Route],
        sums: Mapping[str, Tensor],
        names: Sequence[str],
        l2: float,
    ) -> None:
        """Send the gradients to the owners of the rows, who update them; all as `Router.update`."""
        for name in names:
            found, asked = self._found[name], routes[self._tables[name]].asked
            grad = joined(self._grads[name]).index_select(0, asked.order).flatten(1)
            grad = pad(grad, (0, found.shape[1] - grad.shape[1]))
            if name in self._decayed:
                grad = torch.cat([grad, found.detach()[len(grad) :] * l2])
            with self._world.answered():
                found.backward(grad)  # type: ignore[no-untyped-call]
        self._found, self._grads = {}, {}
        state.apply(backend, {}, {}, step=state.steps, l2=l2)


class _Rows:
    """Rows of a table in TorchRec, those of all processes.

    Args:
        name: of the table.
        mine: [n, ...] the rows of this process.
        sharding: of their space.
        optimizer: as `ParallelConfig.optimizer`.
        lr: learning rate.

    Attributes:
        mine: [n, ...] the same rows, in TorchRec's memory.
        moment: [n, ...] or [n], the optimizer's sums of squares, in TorchRec's memory.
    """

    def __init__(
        self, name: str, mine: Tensor, sharding: Sharding, optimizer: str, lr: float
    ) -> None:
        size, self._name = sharding.world.size, name
        floats = math.prod(mine.shape[1:])
        shards = (held_by(rank, size, sharding.shards) for rank in range(size))
        self._block = max(1, *(sum(map(sharding.rows_of, of_one)) for of_one in shards))
        collection = EmbeddingCollection(
            device=torch.device("meta"),
            tables=[
                EmbeddingConfig(
                    name=name,
                    embedding_dim=-(-floats // _FLOATS) * _FLOATS,
                    num_embeddings=size * self._block,
                    feature_names=[name],
                )
            ],
        )
        fused = {"optimizer": _OPTIMIZERS[optimizer], "learning_rate": lr, "eps": _EPS}
        sharder = EmbeddingCollectionSharder(fused_params=fused)
        # Named, because a table is else trained by autograd and not by the fused optimizer.
        plan = construct_module_sharding_plan(
            collection,
            {name: row_wise(compute_kernel="fused")},
            sharder,
            local_size=size,
            world_size=size,
            device_type="cpu",
        )
        env = ShardingEnv.from_process_group(dist.group.WORLD)
        self._module = sharder.shard(collection, plan, env, torch.device("cpu"))
        weights = self._module.state_dict()[f"embeddings.{name}.weight"].local_shards()[0].tensor
        weights.zero_()
        self.mine = weights[: len(mine), :floats].view(mine.shape)
        self.mine.copy_(mine)
        moments = self._module.fused_optimizer.state_dict()["state"][f"embeddings.{name}.weight"]
        self.moment = None
        if (found := moments.get(f"{name}.momentum1")) is not None:
            of_block = found.local_shards()[0].tensor[: len(mine)]
            by_row = of_block.dim() == 1
            self.moment = of_block if by_row else of_block[:, :floats].view(mine.shape)

    def look_up(self, asked: Asked, own: Tensor) -> Tensor:
        """Rows [n + u, K] of what is asked for and of rows [u] of this process.

        Their gradients are those of a step.
        """
        owners = torch.arange(len(asked.from_each)).repeat_interleave(torch.tensor(asked.from_each))
        ids = owners * self._block + asked.rows
        ids = torch.cat([ids, own + dist.get_rank() * self._block])
        lengths = torch.tensor([len(ids)], dtype=torch.int32)
        found: Tensor = self._module(KeyedJaggedTensor([self._name], ids, lengths=lengths))[
            self._name
        ].values()
        return found
