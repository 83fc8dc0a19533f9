"""Published recall@20 and NDCG@20 of ranking benchmarks, as printed, by the data they are about.

A number stands here only if it was read in the place named; all rank all items with the train items
masked. Data are told by their counts, never by a name.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["PUBLISHED", "Benchmark", "Published", "Source"]


class Benchmark(NamedTuple):
    """Counts that tell a benchmark's files: positives are distinct pairs of user and item."""

    users: int
    items: int
    train: int
    test: int


class Source(NamedTuple):
    """Source of numbers, and what differs between its protocol and ours."""

    cited: str
    differs: str


class Published(NamedTuple):
    """Published row; numbers as printed."""

    model: str
    recall: str
    ndcg: str
    source: Source


STUDY = Source(
    "Shehzad, Ferrari Dacrema & Jannach (SIGIR 2025, arXiv 2501.10143), tables of its repository",
    "options tuned by its own search; KGIN trained by that study with KGIN's code",
)
DIFFKG = Source(
    "Jiang et al., DiffKG (WSDM 2024), the table in its repository",
    "all models as that paper ran them; the loaders of this line have no validation set, so epochs"
    " may have been chosen on test",
)
KGIN_LOG = Source(
    "the training log in KGIN's repository (Wang et al., WWW 2021)",
    "the best epoch on test",
)
KUCNET_LOG = Source(
    "the result files in KUCNet's repository",
    "how the epoch was chosen is not said",
)
KGCL_LOG = Source(
    "the training log in KGCL's repository (Yang et al., SIGIR 2022)",
    "the best epoch on test",
)
KGAT_PYTORCH = Source(
    "the README of a PyTorch version of KGAT (LunaBlack/KGAT-pytorch)",
    "how the epoch was chosen is not said",
)

ALIBABA = Benchmark(114_737, 30_040, 1_380_510, 400_583)
LAST_FM = Benchmark(23_566, 48_123, 1_120_496, 423_635)
LAST_FM_LEAKING = Benchmark(23_566, 48_123, 1_289_003, 423_635)
AMAZON_BOOK = Benchmark(70_679, 24_915, 652_514, 193_920)


def _of(source: Source, *rows: tuple[str, str, str]) -> tuple[Published, ...]:
    return tuple(Published(*row, source) for row in rows)


PUBLISHED: dict[Benchmark, tuple[Published, ...]] = {
    ALIBABA: (
        *_of(
            STUDY,
            ("TopPop", "0.031", "0.017"),
            ("ItemKNN", "0.123", "0.080"),
            ("UserKNN", "0.084", "0.055"),
            ("P3alpha", "0.069", "0.047"),
            ("RP3beta", "0.110", "0.073"),
            ("EASE^R", "0.120", "0.077"),
            ("KGIN", "0.097", "0.054"),
        ),
        *_of(
            DIFFKG,
            ("BPR-MF", "0.0822", "0.0501"),
            ("LightGCN", "0.1058", "0.0652"),
            ("SGL", "0.1141", "0.0713"),
            ("CKE", "0.0835", "0.0512"),
            ("KGNN-LS", "0.0983", "0.0633"),
            ("KGAT", "0.0957", "0.0577"),
            ("KGIN", "0.1144", "0.0723"),
            ("MCCLK", "0.1089", "0.0707"),
            ("KGCL", "0.1146", "0.0719"),
            ("DiffKG", "0.1234", "0.0773"),
        ),
        *_of(KGIN_LOG, ("KGIN", "0.1147", "0.0716")),
        *_of(KUCNET_LOG, ("KUCNet", "0.1034", "0.0664")),
    ),
    LAST_FM: _of(
        STUDY,
        ("TopPop", "0.022", "0.020"),
        ("ItemKNN", "0.182", "0.179"),
        ("UserKNN", "0.130", "0.143"),
        ("P3alpha", "0.194", "0.196"),
        ("RP3beta", "0.189", "0.187"),
        ("EASE^R", "0.185", "0.184"),
        ("KGIN", "0.214", "0.177"),
    ),
    LAST_FM_LEAKING: (
        *_of(
            DIFFKG,
            ("BPR-MF", "0.0690", "0.0585"),
            ("LightGCN", "0.0738", "0.0647"),
            ("SGL", "0.0879", "0.0775"),
            ("CKE", "0.0845", "0.0718"),
            ("KGNN-LS", "0.0881", "0.0690"),
            ("KGAT", "0.0870", "0.0743"),
            ("KGIN", "0.0900", "0.0779"),
            ("MCCLK", "0.0671", "0.0603"),
            ("KGCL", "0.0905", "0.0769"),
            ("DiffKG", "0.0980", "0.0911"),
        ),
        *_of(KGIN_LOG, ("KGIN", "0.0979", "0.0848")),
        *_of(KUCNET_LOG, ("KUCNet", "0.1205", "0.1072")),
    ),
    AMAZON_BOOK: (
        *_of(
            STUDY,
            ("TopPop", "0.029", "0.012"),
            ("ItemKNN", "0.164", "0.097"),
            ("UserKNN", "0.160", "0.092"),
            ("P3alpha", "0.166", "0.094"),
            ("RP3beta", "0.144", "0.084"),
            ("EASE^R", "0.161", "0.092"),
            ("KGIN", "0.143", "0.065"),
        ),
        *_of(KGIN_LOG, ("KGIN", "0.1688", "0.0915")),
        *_of(KUCNET_LOG, ("KUCNet", "0.1724", "0.0973")),
        *_of(KGCL_LOG, ("KGCL", "0.1496", "0.0791")),
        *_of(KGAT_PYTORCH, ("KGAT", "0.1412", "0.0753"), ("BPR-MF", "0.1336", "0.0694")),
    ),
}
