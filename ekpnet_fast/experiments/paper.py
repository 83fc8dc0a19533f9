"""Numbers of the paper, as data: values keep the digits that it gives.

Table 1 is `ekpnet_fast.data.stats.PAPER_TABLE_1`. Figures 4-7 are plots without numbers.
"""

from __future__ import annotations

__all__ = ["TABLE_3", "TABLE_4", "TABLE_5", "TABLE_5_MACHINE"]

# AUC and ACC, by data set and model; None where the paper gives none. KCAN's AUC is in the
# text of section 5.2, not in the table.
TABLE_3: dict[str, dict[str, tuple[str, str | None]]] = {
    "movielens-1m": {
        "cke": ("0.765", "0.719"),
        "dkn": ("0.683", "0.612"),
        "wide_deep": ("0.896", "0.823"),
        "ripplenet": ("0.917", "0.844"),
        "kgcn": ("0.907", "0.838"),
        "ripp_mkr": ("0.920", "0.845"),
        "kcan": ("0.907", None),
        "ekpnet": ("0.928", "0.856"),
    },
    "book-crossing": {
        "cke": ("0.654", "0.625"),
        "dkn": ("0.631", "0.604"),
        "wide_deep": ("0.693", "0.621"),
        "ripplenet": ("0.698", "0.640"),
        "kgcn": ("0.687", "0.631"),
        "ripp_mkr": ("0.720", "0.650"),
        "ekpnet": ("0.741", "0.677"),
    },
}

# AUC; the table's own heading says ACC, but its last column is Table 3's AUC with a digit more.
TABLE_4: dict[str, dict[str, str]] = {
    "movielens-1m": {
        "ekp_no": "0.9172",
        "ekp_att": "0.9213",
        "ekp_frame": "0.9219",
        "ekpnet": "0.9284",
    },
    "book-crossing": {
        "ekp_no": "0.7006",
        "ekp_att": "0.7105",
        "ekp_frame": "0.7251",
        "ekpnet": "0.7408",
    },
}

# Seconds of training, one number per stage.
TABLE_5: dict[str, dict[str, tuple[str, ...]]] = {
    "movielens-1m": {
        "ripplenet": ("352.8",),
        "ekpnet": ("386.3", "252.1"),
        "ripp_mkr": ("924.1",),
        "kgcn": ("1016.2",),
    },
    "book-crossing": {
        "ripplenet": ("136.3",),
        "ekpnet": ("152.2", "122.4"),
        "ripp_mkr": ("524.2",),
        "kgcn": ("734.1",),
    },
}
TABLE_5_MACHINE = "64-core Intel Xeon, A100-PCIE-40GB"
