"""Search, statistics and the document, apart from the server."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from ekpnet_fast.serve import page
from ekpnet_fast.serve.search import Index
from ekpnet_fast.serve.statistics import BUCKETS_PER_DOUBLING, Latencies, Statistics
from support.relations import RELATIONS

NODE = shutil.which("node")


def found(index, query, **limits):
    matches = index.find(query, **{"skip": 0, "limit": 10, **limits})
    return [match.id for match in matches.matches], matches.total


def test_search():
    names = ["Star Wars", "Le Fabuleux Destin d'Amélie", "Stars", None, "A Star is Born", "STRASSE"]
    index = Index([0, 1, 2, 3, 4, 5], names, np.array([5, 1, 9, 7, 2, 0]))
    assert found(index, "") == ([2, 3, 0, 4, 1, 5], 6)
    assert found(index, "", skip=1, limit=2) == ([3, 0], 6)
    assert found(index, "star") == ([2, 0, 4], 3)  # begins with it, by clicks; then holds it
    assert found(index, "wars STAR") == ([0], 1)
    assert found(index, "amelie") == ([1], 1)
    assert found(index, "straße") == ([5], 1)
    assert found(index, "3") == ([3], 1)
    assert found(index, "nothing") == ([], 0)


def test_search_puts_the_id_first():
    index = Index(["b", "a"], ["a film", "other"], np.array([9, 1]))
    assert found(index, "a")[0] == ["a", "b"]


def test_latencies_within_a_bucket():
    latencies = Latencies()
    assert latencies.quantile(0.5) is None
    seconds = np.random.default_rng(0).lognormal(-6, 1, 5000)
    for each in seconds:
        latencies.add(float(each))
    for q in (0.5, 0.95, 0.99):
        exact = float(np.quantile(seconds, q, method="inverted_cdf"))
        assert latencies.quantile(q) == pytest.approx(
            exact, rel=2 ** (1 / BUCKETS_PER_DOUBLING) - 1
        )
    assert latencies.slowest == seconds.max()


def test_latencies_take_any_duration_in_the_same_memory():
    latencies = Latencies()
    size = len(latencies.counts)
    for each in (0.0, 1e-9, 1e9, -1.0):
        latencies.add(each)
    assert len(latencies.counts) == size and latencies.total == 4
    assert latencies.counts[0] == 3 and latencies.counts[-1] == 1


def test_statistics_of_made_up_paths_are_one():
    statistics = Statistics(frozenset({"/a"}))
    for i in range(1000):
        statistics.add(f"/{i}", 404, 0.001)
    statistics.add("/a", 200, 0.001)
    assert set(statistics.endpoints) == {"other", "/a"}


# ---- the page ------------------------------------------------------------------------------------


def test_the_document_needs_nothing_from_elsewhere():
    document = page.build().content.decode()
    assert not re.findall(r"<script[^>]*\ssrc=|<link[^>]*\srel=[\"']?stylesheet", document)
    for name in ("src", "href"):
        for value in re.findall(rf'\b{name}="([^"]*)"', document):
            assert value.startswith(("data:", "#")) or re.fullmatch(r"[a-z.]+", value), value
    assert "url(" not in document and "@import" not in document
    # Namespaces are names, not addresses that are fetched.
    addresses = set(re.findall(r"https?://[^\s'\"`<>)]+", document))
    assert addresses == {"http://www.w3.org/2000/svg"}


def test_the_policy_allows_the_parts_of_the_document_alone():
    built = page.build()
    document = built.content.decode()
    allowed = set(re.findall(r"'sha256-([^']+)'", built.policy))
    parts = re.findall(r"<(?:script|style)>(.*?)</(?:script|style)>", document, re.DOTALL)
    digests = {base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts}
    assert len(parts) == 3 and digests == allowed
    assert "unsafe" not in built.policy
    assert not re.findall(r"\son[a-z]+=\"|\sstyle=\"", document)


def test_texts_of_data_cannot_become_markup():
    for path in sorted(page.FOLDER.glob("*.js")):
        text = path.read_text()
        assert not re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text
        )
    assert "require-trusted-types-for 'script'" in page.build().policy


@pytest.mark.skipif(NODE is None, reason="no Node.js on PATH")
def test_relations_in_words():
    """As the texts of parts have them."""
    source = (page.FOLDER / "page.js").read_text()
    function = re.search(r"^function relationWords\(.*?^}$", source, re.DOTALL | re.MULTILINE)[0]
    given = json.dumps([*RELATIONS])
    script = f"{function}\nconsole.log(JSON.stringify({given}.map(relationWords)))"
    found = subprocess.run([NODE, "-e", script], capture_output=True, check=True, text=True)
    assert dict(zip(RELATIONS, json.loads(found.stdout), strict=True)) == RELATIONS


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(scheme):
    """WCAG 2 AA: a contrast of 4.5 for text."""
    css = (page.FOLDER / "page.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    colours = {}
    for block in blocks[: 1 if scheme == "light" else 2]:
        colours |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]+)", block))

    def luminance(name):
        digits = colours[name][1:]
        digits = "".join(c * 2 for c in digits) if len(digits) == 3 else digits
        levels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in levels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    pairs = [("on-warm", "warm"), ("bad", "bad-wash"), ("soft", "ground"), ("soft", "wash")]
    pairs += [(text, "panel") for text in ("ink", "soft", "accent", "warm", "bad")]
    pairs += [(f"hop-{hop}", "panel") for hop in range(5)]
    for text, ground in pairs:
        light, dark = sorted((luminance(text), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)
