"""Adam on whole parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

__all__ = ["DenseAdam"]

# Names of a parameter's moments and step count, as torch.optim names them.
M, V, STEP = "exp_avg", "exp_avg_sq", "step"


class DenseAdam:
    """Adam (Kingma & Ba 2015) on whole parameters, all in one call.

    The arithmetic and the state are those of `torch.optim.Adam(fused=True)`, whose bookkeeping in
    Python takes several times as long as the update of parameters as small as these, and whose
    making imports torch's compiler, which takes longer than a short run trains.

    Args:
        parameters: on one device.
        lr: learning rate.

    Attributes:
        state: by parameter, from its first update on: `exp_avg`, `exp_avg_sq` and, [] float32,
            `step`; on the parameter's device, changed in place, so that an update can become part
            of a CUDA graph.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float) -> None:
        self.parameters, self.lr = list(parameters), lr
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}
        # [P] float32, of which the states have views: one addition takes less time than several.
        place = self.parameters[0].device if self.parameters else None
        self._steps = torch.zeros(len(self.parameters), device=place)

    def step(self) -> None:
        """Update the parameters that have a gradient."""
        moved = [(p, p.grad) for p in self.parameters if p.grad is not None]
        if not moved:
            return
        states = [self.state.get(p) or self._start(p) for p, _ in moved]
        steps = [state[STEP] for state in states]
        if len(moved) == len(self.parameters):
            self._steps.add_(1)
        else:
            torch._foreach_add_(steps, 1)
        with torch.no_grad():
            torch._fused_adam_(
                [p for p, _ in moved],
                [grad for _, grad in moved],
                [state[M] for state in states],
                [state[V] for state in states],
                [],
                steps,
                lr=self.lr,
                beta1=0.9,
                beta2=0.999,
                weight_decay=0.0,
                eps=1e-8,
                amsgrad=False,
                maximize=False,
            )

    def load(self, states: Mapping[nn.Parameter, Mapping[str, Tensor]]) -> None:
        """Go on from a state by parameter, as `state` gave it."""
        self.state = {}
        self._steps = torch.zeros_like(self._steps)  # also of those that the state does not have
        for p, given in states.items():
            for name, x in self._start(p).items():
                x.copy_(given[name])

    def _start(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        place = next(i for i, p in enumerate(self.parameters) if p is parameter)
        start = {
            STEP: self._steps[place],
            M: torch.zeros_like(parameter),
            V: torch.zeros_like(parameter),
        }
        self.state[parameter] = start
        return start
