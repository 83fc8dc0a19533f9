"""Statements in SQL that number a data set's texts, which any engine of a cluster can run too.

They are DuckDB's, and use of it only `rowid`, the place of a row in its table. Every table that a
statement makes in an order is numbered by that order. What is read:

    interactions (user, item [, label | , rating] [, time])   kg (head, relation, tail)
    links (item, entity)   users, items, entities (id [, name]), each id once

and what is made: `user_number`, `item_number`, `relation_number` (text in order), `entity_number`
(text, number), `pair` (numbered interactions) and `triple` (numbered triples).
"""

from __future__ import annotations

__all__ = [
    "DISTINCT_NAMES",
    "ENTITY_NUMBERS",
    "ENTITY_TEXTS",
    "FIRST_LINKS",
    "ITEMS_AS_LINKS",
    "ITEM_NUMBERS",
    "LABELLED_PAIRS",
    "LINKED",
    "OTHER_ENTITIES",
    "PAIRS",
    "RELATION_NUMBERS",
    "REPEATED",
    "TRIPLES",
    "USER_NUMBERS",
]

# The first row of an id counts.
DISTINCT_NAMES = """
CREATE TABLE {table} AS
SELECT id, {name} AS name FROM given_{table}
WHERE rowid IN (SELECT min(rowid) FROM given_{table} GROUP BY id)
ORDER BY rowid
"""

# By first appearance, those of the table of items before.
ITEM_NUMBERS = """
CREATE TABLE item_number AS
SELECT text FROM (
    SELECT id AS text, rowid AS place, 0 AS source FROM items
    UNION ALL SELECT item, min(rowid), 1 FROM interactions GROUP BY item)
GROUP BY text ORDER BY min(source), arg_min(place, source)
"""

# By the first positive; those of the table of users before, where they have one.
USER_NUMBERS = """
CREATE TABLE user_number AS
SELECT text FROM (
    SELECT i."user" AS text, min(i.rowid) AS place FROM interactions i
    WHERE {positive} GROUP BY i."user")
LEFT JOIN (SELECT id, rowid AS given FROM users) ON id = text
ORDER BY given NULLS LAST, place
"""

# Of a pair the best rating and the earliest time, of a positive that of its positive rows; of data
# that are split all its parts.
PAIRS = """
CREATE TABLE pair AS
SELECT "user", item, max(rating) AS rating,
    coalesce(min(time) FILTER (positive), min(time)) AS time, bit_or(part) AS part FROM (
    SELECT u.rowid::INTEGER AS "user", n.rowid::INTEGER AS item, {rating} AS rating,
        {time} AS time, {positive} AS positive, {part}::UTINYINT AS part
    FROM interactions i
        JOIN user_number u ON i."user" = u.text JOIN item_number n ON i.item = n.text)
GROUP BY "user", item ORDER BY "user", item
"""

LABELLED_PAIRS = """
CREATE TABLE pair AS
SELECT "user", item, label, time, part FROM (
    SELECT u.rowid::INTEGER AS "user", n.rowid::INTEGER AS item,
        min(i.label)::TINYINT AS label, min({time}) AS time, min(i.rowid) AS place,
        bit_or({part}::UTINYINT) AS part
    FROM interactions i
        JOIN user_number u ON i."user" = u.text JOIN item_number n ON i.item = n.text
    GROUP BY u.rowid, n.rowid)
ORDER BY place
"""

# Rows that repeat another one of their part, of users and items that have numbers.
REPEATED = """
SELECT coalesce(sum(n - 1), 0)::BIGINT FROM (
    SELECT count(*) AS n FROM interactions i
        SEMI JOIN user_number u ON i."user" = u.text SEMI JOIN item_number n ON i.item = n.text
    GROUP BY i."user", i.item, {part})
"""

# A triple's head comes before its tail.
ENTITY_TEXTS = """
CREATE TABLE entity_text AS
SELECT text, min(place) AS place FROM (
    SELECT head AS text, 2 * rowid AS place FROM kg
    UNION ALL SELECT tail, 2 * rowid + 1 FROM kg)
GROUP BY text
"""

# Of several items with one entity the first has it.
FIRST_LINKS = """
CREATE TABLE first_link AS
SELECT entity, arg_min(item, place) AS item, count(*) AS items FROM (
    SELECT item, entity, min(rowid) AS place FROM links GROUP BY item, entity)
GROUP BY entity
"""

ITEMS_AS_LINKS = """
CREATE TABLE first_link AS
SELECT text AS entity, text AS item, 1 AS items FROM item_number SEMI JOIN entity_text USING (text)
"""

LINKED = """
CREATE TABLE linked AS
SELECT f.entity AS text, n.rowid::INTEGER AS number
FROM first_link f JOIN item_number n ON f.item = n.text
"""

# Behind the items: those of the table of entities, then by first appearance.
OTHER_ENTITIES = """
CREATE TABLE other_entity AS
SELECT text FROM (
    SELECT text, min(source) AS source, arg_min(place, source) AS place FROM (
        SELECT id AS text, rowid AS place, 0 AS source FROM entities
        UNION ALL SELECT text, place, 1 FROM entity_text)
    GROUP BY text) ANTI JOIN linked USING (text)
ORDER BY source, place
"""

ENTITY_NUMBERS = """
CREATE TABLE entity_number AS
SELECT text, number FROM linked
UNION ALL
SELECT text, ((SELECT count(*) FROM item_number) + rowid)::INTEGER FROM other_entity
"""

RELATION_NUMBERS = """
CREATE TABLE relation_number AS
SELECT relation AS text FROM kg GROUP BY relation ORDER BY min(rowid)
"""

TRIPLES = """
CREATE TABLE triple AS
SELECT head, relation, tail FROM (
    SELECT k.rowid AS place, h.number AS head, r.rowid::INTEGER AS relation, t.number AS tail
    FROM kg k JOIN entity_number h ON k.head = h.text JOIN entity_number t ON k.tail = t.text
        JOIN relation_number r ON k.relation = r.text)
ORDER BY place
"""
