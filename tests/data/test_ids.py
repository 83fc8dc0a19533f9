"""Ids that come close to one that is not there."""

from __future__ import annotations

import pytest

from ekpnet_fast.data.ids import Ids, label_of
from ekpnet_fast.errors import DataError

MANY = Ids("item", tuple(f"movie/{number}" for number in range(1000, 4000)))


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("movie/2567x", "movie/2567"),  # a character too many at the end
        ("xmovie/2567", "movie/2567"),  # and at the beginning
        ("ovie/2567", "movie/2567"),  # one missing at the beginning
        ("mowie/2567", "movie/2567"),  # a wrong one in the middle
        ("moive/2567", "movie/2567"),  # two changed over
    ],
)
def test_one_slip_is_found_anywhere(text, first):
    assert MANY.close(text)[0] == first


def test_the_closest_come_first():
    ids = Ids("user", ("anna", "", "bob", "ann", "annabel", "susann"))
    assert ids.close("anne") == ["ann", "anna"]  # 6/7 and 6/8 in common; 6/11 is too little
    assert ids.close("annab") == ["anna", "annabel", "ann"]  # 8/9, 10/12, 6/8
    assert ids.close("annab", most=2) == ["anna", "annabel"]
    assert ids.close("zusann") == ["susann", "ann"]  # 10/12, 6/9
    assert ids.close("xxx") == ids.close("") == []
    assert ids.such_as("xxx") == "'anna', 'bob', 'ann'"
    with pytest.raises(DataError, match="user: found 'anne', expected one of 5 ids such as 'ann'"):
        ids.number("anne")
    assert Ids("user", ()).close("anne") == []


def test_no_more_ids_are_read_where_there_are_more(monkeypatch):
    """Work is bounded by construction: counted, because a time proves nothing."""

    class Counted(tuple):
        read = 0

        def __getitem__(self, place):
            Counted.read += 1
            return super().__getitem__(place)

    counts = []
    for number in (1000, 100_000):
        ids = Ids("item", Counted(f"movie/{i}" for i in range(number)))
        ids.prepare()
        for text in ("movie/77x", "x" * 10_000, "movie/" + "0" * 10_000):
            Counted.read = 0
            ids.close(text)
            counts.append(Counted.read)
    assert max(counts) <= 100 < 1000  # two searches among 2^17, and 32 neighbours


def test_ids_that_are_added_come_close_too():
    fresh = MANY.with_more(["series/7"], None)
    assert fresh.close("series/9") == ["series/7"]  # whether it is prepared or not
    MANY.prepare()
    more = MANY.with_more(["series/7", "7/movie"], None)
    assert more.close("series/9") == ["series/7"] and more.close("9/movie") == ["7/movie"]
    assert MANY.close("series/9") == [] and len(more) == len(MANY) + 2
    again = Ids("item", more.ids)
    assert [list(order) for order in more._orders] == [list(order) for order in again._orders]


@pytest.mark.parametrize(
    ("iri", "label"),
    [
        ("http://dbpedia.org/resource/The_Matrix", "The Matrix"),
        ("<https://dbpedia.org/resource/The_Matrix>", "The Matrix"),
        ("http://fr.dbpedia.org/resource/Amélie_(film)", "Amélie (film)"),
        ("http://dbpedia.org/resource/AC/DC", "AC/DC"),
        ("http://dbpedia.org/resource/%22Weird_Al%22_Yankovi%C4%87", '"Weird Al" Yanković'),
        ("http://dbpedia.org/resource/The Matrix", "The Matrix"),  # as some files have them
        ("http://dbpedia.org/ontology/director", "director"),
        ("http://example.org/resource/films/The_Matrix", "The Matrix"),  # not of DBpedia
        ("http://notdbpedia.org/resource/AC/DC", "DC"),
        ("http://dbpedia.org/resource/%20", ""),
        ("http://example.org/%20The%20Matrix%20", "The Matrix"),
        ("http://www.w3.org/2000/01/rdf-schema#seeAlso", "seeAlso"),
        ("http://www.wikidata.org/entity/Q42", "Q42"),
        ("http://rdf.freebase.com/ns/film.film.genre", "film.film.genre"),
        ("http://example.org/a/", "a"),
        ("http://example.org/a#", "a"),
        ("http://example.org/100%_a%FFb", "100% a%FFb"),  # no UTF-8: nothing is decoded
        ("http://example.org/a%0Ab", "a%0Ab"),
        ("http://example.org/", ""),
        ("http://example.org", ""),
        ("m.07s9rl0", ""),
        ("The Matrix", ""),
        ("12", ""),
        ("mailto:ann@example.org", ""),
        ("", ""),
    ],
)
def test_label_of_an_iri(iri, label):
    assert label_of(iri) == label
