"""Recommenders, one file each, and the one list of them.

`models/base.py` is their contract, `docs/contributing.md` says how to add one.
"""

from __future__ import annotations

from ekpnet_fast.models.akupm import AKUPM
from ekpnet_fast.models.base import Model
from ekpnet_fast.models.cke import CKE
from ekpnet_fast.models.dkn import DKN
from ekpnet_fast.models.ekpnet import EKPAtt, EKPFrame, EKPNet, EKPNo
from ekpnet_fast.models.ekpnet_plus import EKPNetPlus
from ekpnet_fast.models.kcan import KCAN
from ekpnet_fast.models.kgcn import KGCN
from ekpnet_fast.models.linear import Linear
from ekpnet_fast.models.mf import MF
from ekpnet_fast.models.neighbours import ItemKNN, LocalRidge, P3Alpha, UserKNN
from ekpnet_fast.models.popularity import Popularity
from ekpnet_fast.models.ripp_mkr import RippMKR
from ekpnet_fast.models.ripplenet import RippleNet
from ekpnet_fast.models.wide_deep import WideDeep

__all__ = ["MODELS", "Model"]

MODELS: dict[str, type[Model]] = {
    model.name: model
    for model in (
        Popularity,
        ItemKNN,
        UserKNN,
        P3Alpha,
        LocalRidge,
        MF,
        CKE,
        WideDeep,
        DKN,
        RippleNet,
        KGCN,
        RippMKR,
        AKUPM,
        KCAN,
        EKPNo,
        EKPAtt,
        EKPFrame,
        EKPNet,
        Linear,
        EKPNetPlus,
    )
}
