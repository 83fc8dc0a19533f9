"""Names that people read: the data set's, else those that its IRIs say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ekpnet_fast.recommender import Recommender
from support.cinema import SMALL, cinema

RESOURCE, ONTOLOGY = "http://dbpedia.org/resource/", "http://dbpedia.org/ontology/"
ENTITIES = (
    *("Alien_(film)", "Blade_Runner", "Casablanca", "Dune", "Eden"),
    *("", "Ridley_Scott", "Science_fiction", "Drama_%22serious%22", "United_States"),
)


@pytest.fixture(scope="module")
def of_dbpedia():
    iris = tuple(RESOURCE + name if name else "" for name in ENTITIES)
    relations = tuple(ONTOLOGY + name for name in ("director", "genre", "country"))
    named = (*[""] * 6, "Sir Ridley", *[""] * 3)
    dataset = replace(
        cinema(),
        entity_ids=iris,
        entity_names=named,
        item_names=("", "The Blade", *[""] * 4),
        relation_ids=relations,
        relation_names=relations,  # as an import without labels has them
    )
    return Recommender.fit(dataset, "ekpnet", options=SMALL, epochs=1, device="cpu")


def test_reasons_are_told_in_words(of_dbpedia):
    found = of_dbpedia.explain(history=["alien"], item="blade", top=99)
    paths = {str(reason) for reason in found.reasons}
    assert paths and all("http" not in path for path in paths)
    steps = {str(step) for reason in found.reasons for step in reason.steps}
    assert steps <= {f"{a}{name}{b}" for name in ("director", "genre")
                     for a, b in (("-[", "]->"), ("<-[", "]-"))}  # fmt: skip
    ends = {step.end.name for reason in found.reasons for step in reason.steps}
    assert ends <= {"Sir Ridley", "Science fiction", "Alien (film)", "The Blade", "Dune"}
    assert found.to_text().startswith("The Blade (blade) for history alien")


def test_names_of_the_data_set_win(of_dbpedia):
    """Of an item its own, its entity's, then what the IRI of either says; ids stay ids."""
    state = of_dbpedia._state
    shown = [state.item_name(item) for item in range(6)]
    assert shown == ["Alien (film)", "The Blade", "Casablanca", "Dune", "Eden", None]
    assert state.entities.name(6) == "Sir Ridley" and state.entities.given(7) is None
    assert state.entities.shown(8) == 'Drama "serious"'
    assert state.entities.id(8) == RESOURCE + "Drama_%22serious%22"
    assert state.relations.shown(0) == "director" and state.items.shown(0) == "alien"
