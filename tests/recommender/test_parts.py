"""Parts of the logit of models with a wide part: they add up, and say what is so."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from ekpnet_fast.models.wide.shares import kind_of
from ekpnet_fast.models.wide.signals import GRAPH_REGRESSION, source_names
from ekpnet_fast.recommender import Fact, Node
from ekpnet_fast.recommender.parts import facts_in_words, relation_in_words
from ekpnet_fast.recommender.reasons import masked_logits, tell
from ekpnet_fast.recommender.telling import Counts
from support.cinema import FILMS, cinema, fitted, without_graph
from support.relations import RELATIONS

WIDE = ["linear", "ekpnet_plus"]
SPACE = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module", params=WIDE)
def wide(request):
    return fitted(request.param)


def clicked(recommender):
    """Histories of all users, as sets."""
    return [set(recommender.history(user)) for user in recommender.user_ids()]


def test_parts_add_up_to_the_logit(wide):
    """For known users and new histories, whole and cut."""
    bases = set()
    for user, history in (("ann", None), ("bob", None), (None, ["dune"]), (None, [*FILMS[:5]])):
        for item in FILMS:
            found = wide.explain(user, item, history=history, top=99)
            assert len(found.parts) == found.all_parts
            total = found.base + sum(part.effect for part in found.parts)
            assert total == pytest.approx(found.logit, abs=1e-5)
            assert found.base + sum(found.signals.values()) == pytest.approx(found.logit, abs=1e-5)
            assert found.rest == pytest.approx(0, abs=1e-5)
            (listed,) = wide.recommend(user, history, exclude_seen=False, filter_items=[item])
            assert found.score == pytest.approx(listed.score, abs=1e-6)
            sizes = [abs(part.effect) for part in found.parts]
            assert sizes == sorted(sizes, reverse=True) and 0 not in sizes
            for part in found.parts:
                assert sum(part.signals.values()) == pytest.approx(part.effect)
                if part.shared:
                    assert sum(f.effect for f in part.shared) == pytest.approx(part.effect)
            some = wide.explain(user, item, history=history, top=2)
            assert some.parts == found.parts[:2] and some.all_parts == found.all_parts
            assert some.covered == pytest.approx(sum(part.effect for part in some.parts))
            assert some.base + some.covered + some.rest == pytest.approx(some.logit)
            bases.add(round(found.base, 6))
    assert len(bases) == 1


def test_parts_add_up_after_every_change(wide):
    """Of graph, catalogue and clicks, and a refresh; for old and new users, items and histories."""
    now = wide.snapshot()
    links = [("directed by", "m/ridley"), ("genre", "m/epic")]
    changes = [
        lambda: now.graph.remove_triples([("m/alien", "directed by", "m/ridley")]),
        lambda: now.graph.add_triples(
            [("m/eden", "genre", "m/epic"), ("m/dune", "genre", "m/epic")]
        ),
        lambda: now.graph.add_items({"gladiator": links}),
        lambda: now.add_clicks(
            {"ann": ["gladiator"], "zoe": ["gladiator", "eden"], "yan": ["dune"]}
        ),
        now.refresh,
        lambda: now.graph.remove_triples([("gladiator", "genre", "m/epic")]),
        lambda: now.add_clicks({"zoe": ["casablanca"]}),
    ]
    logits = []
    for change in changes:
        change()
        users = [user for user in ("ann", "zoe", "yan") if user in now.user_ids()]
        items = now.item_ids()
        asked = [*((user, None) for user in users), (None, ["eden"]), (None, items[-3:])]
        logits.append([])
        for user, history in asked:
            for item in items:
                found = now.explain(user, item, history=history, top=99)
                total = found.base + sum(part.effect for part in found.parts)
                assert total == pytest.approx(found.logit, abs=1e-5)
                (listed,) = now.recommend(user, history, exclude_seen=False, filter_items=[item])
                assert found.score == pytest.approx(listed.score, abs=1e-6)
                for part in found.parts:
                    if part.shared:
                        assert sum(f.effect for f in part.shared) == pytest.approx(part.effect)
                logits[-1].append(found.logit)
    assert all(before != after for before, after in pairwise(logits))


def test_texts_say_what_was_clicked_and_shared(wide):
    histories = clicked(wide)
    found = wide.explain(history=["alien", "blade"], item="dune", top=99)
    by_kind = {}
    for part in found.parts:
        by_kind.setdefault(part.kind, []).append(part)
    said = {}
    for part in by_kind["clicks"]:
        assert part.effect > 0
        start, said[part.because.id] = part.text.split(": ")
        assert start == f"because you clicked {part.because}"
        assert {kind_of(signal) for signal in part.signals} == {"clicks"}
    who = [history for history in histories if "alien" in history]
    both = sum("dune" in history for history in who)
    assert said == {
        "alien": f"{both} of the {len(who)} who did also clicked this",
        "blade": "those who did clicked much that goes with this",  # fewer than by chance both
    }
    count = sum("dune" in history for history in histories)
    assert [p.text for p in by_kind["popularity"]] == [f"popular: clicked by {count} people"]
    assert {p.text for p in by_kind["match"]} == {
        "shares genre m/scifi with Alien",
        "shares genre m/scifi with Blade Runner",
    }
    (fact,) = by_kind["match"][0].shared
    assert fact.end == Node("m/scifi", None, "entity") and fact.relation == "genre"
    assert not fact.backwards
    deep = {"paths", "item"} & set(by_kind)
    assert deep == ({"paths", "item"} if wide.model == "ekpnet_plus" else set())


def only(recommender, *names, weight=1.0):
    """Leave curves to the named features alone, straight ones that rise by as much."""
    part = recommender._state.model.linear
    part.weight.zero_()
    for name in names:
        place = part.names.index(name)
        part.weight[place], part.knots[place] = weight, torch.linspace(-8, 8, 5)
    return recommender


def texts(recommender, kind, item, history):
    found = recommender.explain(history=history, item=item, top=99)
    assert found.base + sum(part.effect for part in found.parts) == pytest.approx(found.logit)
    return [part.text for part in found.parts if part.kind == kind]


def test_counts_are_told_as_they_speak():
    """By how many of who clicked the one clicked the other: as many as by chance, fewer, none."""
    recommender = fitted("linear")
    histories = clicked(recommender)
    seen = set()
    for j, i in ((j, i) for j in FILMS for i in FILMS if j != i):
        who = [history for history in histories if j in history]
        both, of_item = (sum(i in x for x in xs) for xs in (who, histories))
        counts = Counts(recommender._state, FILMS.index(i))
        node = Node(j, "X", "item")
        often = both * len(histories) >= len(who) * of_item
        far = "because you clicked X: those who did clicked much that goes with this"
        near = f"because you clicked X: {both} of the {len(who)} who did also clicked this"
        few = f"{both}" if often else f"only {both}" if both else "none"
        too = " too" if both else ""
        against = f"against it: {few} of the {len(who)} who clicked X clicked this{too}"
        told = [counts.in_words(node, FILMS.index(j), speaks_for=x) for x in (True, False)]
        assert told == [near if often else far, against]
        seen.add("often" if often else few.split()[0])
    assert seen == {"often", "only", "none"}
    told = [counts.in_words(node, FILMS.index(i), speaks_for=x) for x in (True, False)]
    assert told == ["because you clicked this itself", "against it: you clicked this itself"]


def test_people_who_clicked_since_are_counted():
    recommender = only(fitted("linear"), "popularity", "co-click")
    before = sum("dune" in history for history in clicked(recommender))
    recommender.add_clicks({"zoe": ["dune", "alien"], "ann": ["dune"]})
    after = sum("dune" in history for history in clicked(recommender))
    assert after > before
    assert texts(recommender, "popularity", "dune", ["alien"]) == [
        f"popular: clicked by {after} people"
    ]
    who = [history for history in clicked(recommender) if "alien" in history]
    both = sum("dune" in history for history in who)
    assert texts(recommender, "clicks", "dune", ["alien"]) == [
        f"because you clicked Alien: {both} of the {len(who)} who did also clicked this"
    ]


def test_what_speaks_against_the_item_says_so():
    """A falling curve takes back what others say twice."""
    names = ("popularity", "KG match", "joint 1 over the user's mean")
    recommender = only(fitted("linear", linear__joint_spectral=(1,)), *names, weight=-1.0)
    found = recommender.explain(history=["alien"], item="blade", top=99)
    people = sum("blade" in history for history in clicked(recommender))
    told = {part.kind: part.text for part in found.parts}
    assert told["popularity"] == f"against it: clicked by {people} people"
    facts = "directed by Ridley Scott and genre m/scifi"
    assert told["match"] == f"against it: shares {facts} with Alien"
    assert told["joint"] == "against it: near Alien by clicks and graph together"
    assert all(part.effect < 0 for part in found.parts)
    assert "popular" not in told["popularity"]


@pytest.mark.parametrize("weight", [1.0, -1.0])
def test_the_mean_of_neighbours_is_theirs_alone(weight):
    """The signal is drawn to the mean of all; what is told is not."""
    recommender = only(fitted("linear"), "KG neighbours' clicks", weight=weight)
    histories = clicked(recommender)
    counts = {film: sum(film in history for history in histories) for film in FILMS}
    everyone = np.mean(list(counts.values()))
    for item, others in (
        ("alien", ["blade", "blade", "dune"]),  # director and genre; genre
        ("dune", ["alien", "blade"]),
        ("casablanca", ["eden", "eden"]),
    ):
        (told,) = texts(recommender, "neighbours", item, ["fargo"])
        mean = np.mean([counts[other] for other in others])
        fewer = bool(mean < everyone)
        low = "only " if fewer and weight > 0 else ""
        against = "against it: " if not fewer and weight < 0 else ""
        assert told == (
            f"{against}items that share facts with it are clicked by {low}{mean:.1f} people on"
            " average"
        )


def test_an_item_of_which_nothing_is_known():
    """Says so, and what its logit is."""
    recommender = fitted("linear")
    recommender.graph.add_items({"heat": [("genre", "m/thriller")]})
    found = recommender.explain(history=["alien"], item="heat")
    assert found.parts == () and found.base == pytest.approx(found.logit) and found.covered == 0
    assert found.notes == ("nothing that was learned speaks for the item or against it",)
    assert found.to_text().splitlines()[1:] == [
        f"     logit {found.logit:+.4f} = {found.base:+.4f} of any item",
        f"note: {found.notes[0]}",
    ]
    svg = ElementTree.fromstring(found.to_svg())
    (about,) = [e.text for e in svg.iter(f"{SPACE}text") if (e.text or "").startswith("score")]
    assert f"{found.base:+.4f} of any item; nothing that was learned" in about
    assert 6 * len(about) < width_of(svg)


def test_paths_of_ekpnet_plus_are_what_the_logit_loses_without_all():
    recommender = fitted("ekpnet_plus")
    found = recommender.explain(history=["alien"], item="dune", top=99)
    state = recommender._state
    query = state.of_histories([np.array([0])])
    sets = state.ripple_sets(query)
    every = [(hop, slot) for hop in range(2) for slot in range(8)]
    (without,) = masked_logits(state, query, sets, 3, [every]).tolist()
    (paths,) = [part for part in found.parts if part.kind == "paths"]
    assert paths.effect == pytest.approx(found.logit - without)
    assert f"the {found.paths} paths" in paths.text
    assert found.reasons  # EKPNet's paths stand beside the parts


def test_an_ekpnet_that_adds_nothing_is_no_part():
    recommender = fitted("ekpnet_plus")
    model = recommender._state.model
    with torch.no_grad():
        model.w_out.zero_()
        model.b_out.zero_()
    found = recommender.explain(history=["alien", "blade"], item="dune", top=99)
    assert not {"paths", "item"} & {part.kind for part in found.parts}
    total = found.base + sum(part.effect for part in found.parts)
    assert total == pytest.approx(found.logit, abs=1e-5)


def width_of(svg):
    return float(svg.get("width"))


def test_text_json_and_drawing_tell_the_same(wide):
    found = wide.explain(history=["alien", "blade"], item="dune", top=3)
    lines = found.to_text().splitlines()
    assert [line.strip() for line in lines[1:4]] == [
        f"{rank}. {part.effect:+.4f} {part.text}" for rank, part in enumerate(found.parts, 1)
    ]
    assert lines[4].strip() == found.sum_in_words
    share = 100 * found.covered / (found.logit - found.base)
    assert f"by these ({share:.0f} %)" in found.sum_in_words
    assert f"by {found.all_parts - 3} more" in found.sum_in_words
    told = json.loads(found.to_json())
    assert told["parts"] == [part.to_dict() for part in found.parts]
    assert told["base"] + told["covered"] + told["rest"] == pytest.approx(told["logit"])
    svg = ElementTree.fromstring(found.to_svg())
    texts = [element.text for element in svg.iter(f"{SPACE}text")]
    assert {part.text for part in found.parts} <= set(texts)
    bars = [float(r.get("width")) for r in svg.iter(f"{SPACE}rect") if r.get("fill") == "#7fb08a"]
    lines = [(e, float(e.get("x"))) for e in svg.iter(f"{SPACE}text") if not e.get("paint-order")]
    starts = [(e, x) for e, x in lines if e.get("text-anchor") == "start"]
    assert all(x + 0.5 * float(e.get("font-size")) * len(e.text) < width_of(svg) for e, x in starts)
    sizes = [part.effect for part in found.parts]
    assert bars == pytest.approx([120 * size / sizes[0] for size in sizes], abs=0.06)


def with_given_tastes():
    """Six films are too few to learn one from: what facts are worth beside each other is given."""
    recommender = fitted("linear")
    part = recommender._state.model.linear
    affinities = part.affinities
    graph = replace(affinities.graph, chosen=torch.ones_like(affinities.graph.chosen))
    affinities.graph = graph
    source = source_names(part.options)[GRAPH_REGRESSION]
    vectors = graph.folded_in(part.knowledge.weighed, part.knowledge.relations)
    affinities.sources.values[source].copy_(vectors)
    affinities.sources.transposed[source].copy_(affinities.sources.values[source].T)
    return recommender, part


def test_a_taste_names_the_facts_of_the_item():
    recommender, part = with_given_tastes()
    place = part.names.index(GRAPH_REGRESSION)
    part.weight.zero_()
    part.weight[place], part.knots[place] = 1.0, torch.linspace(-1, 1, 5)
    found = recommender.explain(history=["alien", "casablanca"], item="blade", top=99)
    total = found.base + sum(part.effect for part in found.parts)
    assert total == pytest.approx(found.logit, abs=1e-5) and found.logit != found.base
    assert {part.kind for part in found.parts} == {"taste"}
    for told in found.parts:
        assert {str(fact) for fact in told.shared} == {"directed by Ridley Scott", "genre m/scifi"}
        effects = [fact.effect for fact in told.shared]
        assert sum(effects) == pytest.approx(told.effect)
        first, second = map(str, told.shared)
        often = "go" if told.effect > 0 else "seldom go"
        assert told.text == f"its {first} and {second} {often} with {told.because}"


def test_a_single_fact_goes():
    """As before, of films that have one: the verb agrees."""
    recommender, _ = with_given_tastes()
    only(recommender, GRAPH_REGRESSION)
    found = recommender.explain(history=["alien", "casablanca"], item="dune", top=99)
    assert found.parts
    for part in found.parts:
        goes = "goes" if part.effect > 0 else "seldom goes"
        assert part.text == f"its genre m/scifi {goes} with {part.because}"


def test_relations_in_words():
    assert {relation: relation_in_words(relation) for relation in RELATIONS} == RELATIONS
    assert (
        str(Fact("film.film.genre", Node("m1", "comedy", "entity"), False, 1.0)) == "genre comedy"
    )


def test_linear_has_no_remark_about_paths():
    found = fitted("linear").explain("ann", "eden")
    assert found.notes == () and found.reasons == () and found.paths == 0


def test_without_a_graph_nobody_asks_for_paths():
    """Parts tell the item; EKPNet alone has none of them, and says why once."""
    data = without_graph(cinema())
    found = fitted("ekpnet_plus", data).explain("ann", "eden", top=99)
    assert found.parts and found.notes == () and found.paths == 0
    assert not {"paths"} & {part.kind for part in found.parts}
    for told in (found.to_text(), found.to_json(), found.to_svg()):
        assert "graph" not in told
    alone = fitted("ekpnet", data).explain("ann", "eden")
    assert alone.notes == ("there is no graph, by whose paths the item could be explained",)


def test_facts_in_words():
    def fact(name, relation="star", backwards=False):
        return Fact(relation, Node(name, None, "entity"), backwards, 1.0)

    assert facts_in_words([fact("a")]) == "star a"
    assert facts_in_words([fact("a"), fact("b", backwards=True)]) == "star a and b (star)"
    many = [fact(name) for name in "abcde"]
    assert facts_in_words(many) == "star a, star b, star c and 2 more"
    assert facts_in_words([fact("a"), fact("a")]) == "star a"  # by match and by relation
    assert facts_in_words([]) == ""
    numbers = [fact("1441", "3"), fact("12", "0", backwards=True)]
    assert facts_in_words(numbers) == "relation 3 to 1441 and 12 (relation 0)"


# ---- fidelity ------------------------------------------------------------------------------------


def test_fidelity_of_parts(wide):
    found = wide.fidelity(items=2, masked=1, draws=4)
    assert found.pairs > 10 and found.attention is None
    assert found.top > found.random and found.larger > 0.5
    assert found.covered > 0 and found.said > 0
    assert wide.fidelity(items=2, masked=1, draws=4) == found


def test_fidelity_of_parts_by_hand(wide):
    """Of one pair: what the first says, and how much of the logit that is."""
    found = wide.fidelity(users=["ann"], items=1, masked=1)
    (best,) = wide.recommend("ann", k=1)
    whole = wide.explain("ann", best.item, top=1)
    assert found.pairs == 1
    assert found.said == pytest.approx(whole.covered)
    assert found.covered == pytest.approx(whole.covered / (whole.logit - whole.base))


def test_what_masking_leaves_out(wide):
    """Clicks of one item, from the affinities of clicks and their means; matches, from these."""
    state = wide._state
    query = state.of_histories([np.array([0, 1])])
    told = tell(state, query, 3, 0.0, 0.0, 0)
    pair = told._pair
    by_clicks = ("co-click", "far", "low", "item kNN", "ridge")
    of_clicks = [name.startswith(by_clicks) for name in pair.names]
    of_matches = [name.startswith("KG match") for name in pair.names]
    for kind, rows, counts in (("clicks", of_clicks, True), ("match", of_matches, False)):
        (share,) = [s for s in told.shares if (s.kind, s.place) == (kind, 0)]
        kept = np.ones((len(pair.names), 2), dtype=bool)
        kept[np.array(rows), 0] = False
        left = pair.rises(kept, kept if counts else None).sum()
        assert told.without([share]) == pytest.approx(left - pair.rises().sum())
        assert told.without([share]) < 0
    (popular,) = [share for share in told.shares if share.kind == "popularity"]
    assert told.without([popular]) == pytest.approx(-popular.effect)
    assert told.without([]) == 0
