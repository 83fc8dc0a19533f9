"""Torch library `ekpnet`, loaded. No file outside of this folder names its ops."""

from __future__ import annotations

import torch

from ekpnet_fast.native.loading import load_ops

load_ops()

ekpnet = torch.ops.ekpnet
