"""Implementations of the ops that a run can choose from."""

from __future__ import annotations

from types import ModuleType

from ekpnet_fast import ops
from ekpnet_fast.ops import reference

BACKENDS: dict[str, ModuleType] = {"native": ops, "reference": reference}
