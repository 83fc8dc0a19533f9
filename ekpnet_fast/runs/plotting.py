"""Colours and markers of all pictures, and whether they can be drawn."""

from __future__ import annotations

MISSING = "no pictures: matplotlib is missing; pip install 'ekpnet_fast[report]'"

# Colours that colour-blind readers can distinguish (Okabe & Ito), and markers beside them.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7F7F7F")
MARKERS = "osD^vP*X<>"

# Text stays text, names with dollar signs too; the same picture is the same bytes.
RC = {"svg.hashsalt": "ekpnet_fast", "svg.fonttype": "none", "text.parse_math": False}


def has_matplotlib() -> bool:
    """Whether pictures can be drawn (the extra `report`)."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True
