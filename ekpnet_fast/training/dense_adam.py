"""Adam of the dense parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["DenseAdam"]

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


class DenseAdam:
    """Adam (Kingma & Ba 2015), with the bits of `torch.optim.Adam(parameters, lr, fused=True)`.

    It calls the same op of torch. Making a `torch.optim` optimizer imports torch's compiler, which
    takes longer than a short run trains.

    Args:
        parameters: float32, on one device.
        lr: learning rate.

    Attributes:
        state: by parameter, from its first step on: "step" [] float32, "exp_avg" and "exp_avg_sq"
            of its shape; named as torch's are.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float) -> None:
        self.parameters, self.lr = list(parameters), lr
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters that have a gradient."""
        moved: list[Tensor] = []
        grads: list[Tensor] = []
        states: list[dict[str, Tensor]] = []
        for parameter in self.parameters:
            if parameter.grad is None:
                continue
            if parameter not in self.state:
                self.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
            moved.append(parameter)
            grads.append(parameter.grad)
            states.append(self.state[parameter])
        if not moved:
            return
        steps = [state["step"] for state in states]
        torch._foreach_add_(steps, 1)
        torch._fused_adam_(
            moved,
            grads,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            steps,
            lr=self.lr,
            beta1=BETA1,
            beta2=BETA2,
            weight_decay=0.0,
            eps=EPS,
            amsgrad=False,
            maximize=False,
        )
