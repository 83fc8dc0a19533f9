"""Data sets: loading, preparing, drawing synthetic ones, describing and checking them."""

from ekpnet_fast.data.datasets import load_dataset
from ekpnet_fast.data.splits import prepare
from ekpnet_fast.data.stats import Finding, Statistics, check, describe
from ekpnet_fast.data.synthetic.config import SyntheticConfig
from ekpnet_fast.data.synthetic.generator import make_synthetic
from ekpnet_fast.data.tables import Dataset, Examples, Interactions, PreparedData

__all__ = [
    "Dataset",
    "Examples",
    "Finding",
    "Interactions",
    "PreparedData",
    "Statistics",
    "SyntheticConfig",
    "check",
    "describe",
    "load_dataset",
    "make_synthetic",
    "prepare",
]
