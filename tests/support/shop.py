"""Shop data set: purchases, a graph of the goods, and the links between the two."""

from __future__ import annotations

USERS, ITEMS = 12, 9


def purchases():
    """Purchases (user, item, stars): every user buys four things, three stars or more are good."""
    return [
        (f"u{user}", f"sku-{(user + 2 * step) % ITEMS}", 1 + (user + step) % 5)
        for user in range(USERS)
        for step in range(4)
    ]


def triples():
    """Triples (head, relation, tail): makers and colours of things, one of them twice."""
    rows = [(f"thing{item}", "made by", f"maker{item % 3}") for item in range(ITEMS)]
    rows += [(f"thing{item}", "has colour", f"colour{item % 2}") for item in range(ITEMS)]
    return [*rows, rows[0]]


def links():
    """Links (item, entity) of all items but the last."""
    return [(f"sku-{item}", f"thing{item}") for item in range(ITEMS - 1)]


def table(header, rows, separator=","):
    """Text of a table."""
    return "".join(separator.join(map(str, row)) + "\n" for row in [header, *rows])


def files():
    """Files of the shop in CSV."""
    names = [(f"sku-{item}", f'"Thing, ""{item}"""') for item in range(ITEMS)]
    return {
        "buy.csv": table(("customer", "sku", "stars", "when"), [(*r, 7) for r in purchases()]),
        "kg.csv": table(("subject", "predicate", "object"), triples()),
        "map.csv": table(("sku", "entity"), links()),
        "goods.csv": table(("sku", "title"), names),
    }


def ntriples():
    """Text of the graph in N-Triples, with labels in two languages and a literal that is none."""

    def iri(name):
        return f"<http://shop.example/{name.replace(' ', '_')}>"

    label = "<http://www.w3.org/2000/01/rdf-schema#label>"
    lines = [f"{iri(h)} {iri(r)} {iri(t)} ." for h, r, t in triples()]
    lines += [
        "# a comment",
        "",
        f'{iri("maker0")} {label} "Der erste"@de .',
        f'{iri("maker0")} {label} "The \\"first\\" \\u00e9"@en .',
        f'{iri("maker1")} {label} "Second" .',
        f'{iri("made by")} {label} "made by"@en .',
        f'{iri("maker1")} {iri("founded")} "1900"^^<http://www.w3.org/2001/XMLSchema#gYear> .',
        f"_:b0 {iri('made by')} {iri('maker2')} . # a blank node",
    ]
    return "\n".join(lines) + "\n"
