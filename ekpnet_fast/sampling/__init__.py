"""Graph, histories, ripple sets and mini-batches, made of prepared data."""

from ekpnet_fast.sampling.batches import BatchStream
from ekpnet_fast.sampling.examples import UserExamples
from ekpnet_fast.sampling.folds import Folds
from ekpnet_fast.sampling.graph import Graph
from ekpnet_fast.sampling.histories import Histories
from ekpnet_fast.sampling.pairs import Batch, Pairs
from ekpnet_fast.sampling.ripple_sets import RippleSets

__all__ = [
    "Batch",
    "BatchStream",
    "Folds",
    "Graph",
    "Histories",
    "Pairs",
    "RippleSets",
    "UserExamples",
]
