"""Titles of items as ids of words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import torch
from torch import Tensor

# Letters and digits of any script; an apostrophe inside keeps "don't" one word.
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")

UNTITLED = ""  # the word of a title that has none


def tokenize(title: str) -> list[str]:
    """Words of a title, in order.

    Unicode is normalised (NFKC) and case folded; a word is a run of letters and digits, so that
    "Toy Story (1995)" is toy, story, 1995. Nothing is stemmed or left out.
    """
    return _WORD.findall(unicodedata.normalize("NFKC", title).casefold())


def encode(titles: Sequence[str], length: int) -> tuple[Tensor, Tensor, list[str]]:
    """First `length` words of each title, as ids.

    Returns:
        words [I, length] int32, ids in the vocabulary, 0 behind the end; counts [I] int32, at least
        1; and the vocabulary: `UNTITLED`, then the words in order of first appearance.
    """
    ids = {UNTITLED: 0}
    words = torch.zeros(len(titles), length, dtype=torch.int32)
    counts = torch.ones(len(titles), dtype=torch.int32)
    for i, title in enumerate(titles):
        found = tokenize(title)[:length]
        if found:
            row = [ids.setdefault(word, len(ids)) for word in found]
            words[i, : len(row)] = torch.tensor(row, dtype=torch.int32)
            counts[i] = len(row)
    return words, counts, list(ids)
