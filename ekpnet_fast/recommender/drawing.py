"""SVG of reasons: a bar per part of the logit; below, the paths of the graph.

Paths have a column per hop, the history on the left, the item on the right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from ekpnet_fast.recommender.parts import Part
from ekpnet_fast.recommender.paths import Node, Reason, Step

BOX, GAP, HEIGHT, ROW = 190, 150, 30, 56  # widths and heights, in pixels
MARGIN, TITLE = 20, 50
LETTERS = 26  # of a name; the rest is in the tooltip
BAR, BAR_ROW, FIGURE = 120, 26, 70  # of a part: longest bar, height of its line, its number's width
LETTER = 6.5  # width of a letter of 12 pixels, about
FOR, AGAINST = "#7fb08a", "#d98c7a"
FILL = {"item": "#dbe9f6", "entity": "#eeeeee", "end": "#fde3c8"}
LINE, INK, FAINT = "#7a8ca3", "#1b1f24", "#57606a"

_NOT_XML = re.compile("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Place = tuple[int, Node]


@dataclass
class Edge:
    """Edge of the drawing: a step of one or more reasons.

    Attributes:
        start, end: column and node.
        label: relation, with an arrow that says how the graph has it; "" for an end that is alike.
        effect: of the strongest reason.
    """

    start: Place
    end: Place
    label: str
    effect: float


def svg_of(
    reasons: Sequence[Reason],
    item: Node,
    *,
    parts: Sequence[Part] = (),
    title: str,
    about: str,
    description: str,
) -> str:
    """Draw reasons: bars are as long as the effects, lines as wide as those of the strongest path.

    Args:
        reasons: the paths.
        item: where they lead.
        parts: of the logit.
        title: of the item and its user or history.
        about: a line below the title.
        description: the same in words, for those who do not see the drawing.
    """
    edges = _edges(reasons, item)
    last = max((edge.end[0] for edge in edges.values()), default=1)
    places = list(dict.fromkeys(p for edge in edges.values() for p in (edge.start, edge.end)))
    end = (last, item)
    if end not in places and not (parts and not reasons):
        places.append(end)
    columns: list[list[Place]] = [[] for _ in range(last + 1)]
    for place in places:
        columns[place[0]].append(place)
    rows = max(map(len, columns))
    width = 2 * MARGIN + (last + 1) * BOX + last * GAP
    longest = max((len(part.text) for part in parts), default=0)
    needed = (FIGURE + BAR + LETTER * longest, LETTER * len(about), LETTER * 16 / 12 * len(title))
    width = max(width, 2 * MARGIN + round(max(needed)))
    top = TITLE + (len(parts) * BAR_ROW + MARGIN if parts else 0)
    height = 2 * MARGIN + top + rows * ROW
    at = {
        place: (
            MARGIN + column * (BOX + GAP),
            top + MARGIN + (rows - len(members)) * ROW / 2 + row * ROW,
        )
        for column, members in enumerate(columns)
        for row, place in enumerate(members)
    }
    root = ElementTree.Element(
        "svg",
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=str(width),
        height=str(height),
        role="img",
    )
    root.set("font-family", "sans-serif")
    ElementTree.SubElement(root, "title").text = f"Why {title}"
    ElementTree.SubElement(root, "desc").text = description
    ElementTree.SubElement(root, "rect", width="100%", height="100%", fill="white")
    _text(root, MARGIN, MARGIN + 14, title, 16)
    _text(root, MARGIN, MARGIN + 34, about, 12, FAINT)
    _draw_parts(root, parts)
    most = max((edge.effect for edge in edges.values()), default=1.0)
    for edge in edges.values():
        _draw_edge(root, edge, at, most)
    for place in places:
        _draw_node(root, place[1], at[place], is_end=place == end)
    ElementTree.indent(root)
    # What XML cannot hold, names of people's data may.
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", ElementTree.tostring(root, "unicode")) + "\n"


def _draw_parts(root: ElementTree.Element, parts: Sequence[Part]) -> None:
    most = max((abs(part.effect) for part in parts), default=0.0) or 1.0
    for row, part in enumerate(parts):
        y = TITLE + MARGIN + row * BAR_ROW
        group = ElementTree.SubElement(root, "g")
        signals = ", ".join(f"{name} {effect:+.4f}" for name, effect in part.signals.items())
        ElementTree.SubElement(group, "title").text = signals
        ElementTree.SubElement(
            group,
            "rect",
            x=f"{MARGIN + FIGURE:g}",
            y=f"{y:g}",
            width=f"{max(BAR * abs(part.effect) / most, 1):.1f}",
            height=f"{BAR_ROW - 10:g}",
            fill=FOR if part.effect > 0 else AGAINST,
        )
        where = MARGIN + FIGURE - 8, y + BAR_ROW / 2
        _text(group, *where, f"{part.effect:+.4f}", 12, FAINT, anchor="end")
        _text(group, MARGIN + FIGURE + BAR + 10, where[1], part.text, 12)


def _edges(reasons: Sequence[Reason], item: Node) -> dict[tuple[Place, Place, str], Edge]:
    """Edges of all reasons, those that several share once."""
    last = max((len(r.steps) + (r.match != "is") for r in reasons), default=1)
    edges: dict[tuple[Place, Place, str], Edge] = {}
    for reason in reasons:
        for start, end, label in _walk(reason, item, last):
            known = edges.setdefault((start, end, label), Edge(start, end, label, reason.effect))
            known.effect = max(known.effect, reason.effect)
    return edges


def _walk(reason: Reason, item: Node, last: int) -> Iterator[tuple[Place, Place, str]]:
    """Edges of a reason, left to right."""
    for column, step in enumerate(reason.steps):
        is_end = reason.match == "is" and step is reason.steps[-1]
        end = (last if is_end else column + 1, step.end)
        yield (column, step.start), end, _label(step)
    if reason.match != "is":
        start = (len(reason.steps), reason.steps[-1].end)
        yield start, (last, item), "" if reason.link is None else _label(reason.link)


def _label(step: Step) -> str:
    return f"← {step.relation}" if step.backwards else f"{step.relation} →"


def _draw_edge(
    root: ElementTree.Element, edge: Edge, at: Mapping[Place, tuple[float, float]], most: float
) -> None:
    (x, y), (to_x, to_y) = at[edge.start], at[edge.end]
    x, y, to_y = x + BOX, y + HEIGHT / 2, to_y + HEIGHT / 2
    middle = (x + to_x) / 2
    share = edge.effect / most if most > 0 else 0.0
    curve = ElementTree.SubElement(
        root,
        "path",
        d=f"M {x:g} {y:g} C {middle:g} {y:g}, {middle:g} {to_y:g}, {to_x:g} {to_y:g}",
        fill="none",
        stroke=LINE,
    )
    curve.set("stroke-width", f"{1 + 4 * share:.2f}")
    if not edge.label:
        curve.set("stroke-dasharray", "5 4")
    shown = edge.label or "alike"
    ElementTree.SubElement(curve, "title").text = f"{shown}, effect {edge.effect:+.4f}"
    if edge.label:
        # A third of the way: where lines meet at the item their labels are still apart.
        where = (x + (to_x - x) * 10 / 27, y + (to_y - y) * 7 / 27 - 4)
        _text(root, *where, _short(edge.label, 24), 10, FAINT, anchor="middle", halo=True)


def _draw_node(
    root: ElementTree.Element, node: Node, at: tuple[float, float], *, is_end: bool
) -> None:
    group = ElementTree.SubElement(root, "g")
    ElementTree.SubElement(group, "title").text = f"{node} ({node.kind} {node.id})"
    box = ElementTree.SubElement(
        group,
        "rect",
        x=f"{at[0]:g}",
        y=f"{at[1]:g}",
        width=str(BOX),
        height=str(HEIGHT),
        rx="6",
        fill=FILL["end" if is_end else node.kind],
    )
    box.set("stroke", LINE)
    text = _short(str(node), LETTERS)
    _text(group, at[0] + BOX / 2, at[1] + HEIGHT / 2 + 4, text, 12, anchor="middle")


def _text(
    parent: ElementTree.Element,
    x: float,
    y: float,
    text: str,
    size: int,
    colour: str = INK,
    *,
    anchor: str = "start",
    halo: bool = False,
) -> None:
    element = ElementTree.SubElement(parent, "text", x=f"{x:g}", y=f"{y:g}", fill=colour)
    element.set("font-size", str(size))
    element.set("text-anchor", anchor)
    if halo:  # lines that pass below do not strike the letters through
        element.set("stroke", "white")
        element.set("stroke-width", "3")
        element.set("paint-order", "stroke")
    element.text = text


def _short(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"
