-- The statements of ekpnet_fast/data/importing/statements.py for Spark SQL 4, without tables of
-- users, items and entities, ratings, labels and times: what `ekpnet data import-numbered OUT` reads.
--
-- IN/interactions (user, item), IN/kg (head, relation, tail) and IN/links (item, entity; each item
-- once) are folders of Parquet with texts; without links, IN/links is the distinct items, twice.
-- WORK and OUT are folders to write. A row's place is its file and its number there. Numbers are
-- those of rows in files that were written in order, so that no step needs all rows on one machine.

INSERT OVERWRITE DIRECTORY 'WORK/item' USING parquet
SELECT item AS text FROM (
    SELECT item, min(struct(_metadata.file_name, _metadata.row_index)) AS place
    FROM parquet.`IN/interactions` GROUP BY item)
ORDER BY place;

INSERT OVERWRITE DIRECTORY 'WORK/user' USING parquet
SELECT user AS text FROM (
    SELECT user, min(struct(_metadata.file_name, _metadata.row_index)) AS place
    FROM parquet.`IN/interactions` GROUP BY user)
ORDER BY place;

INSERT OVERWRITE DIRECTORY 'WORK/relation' USING parquet
SELECT relation AS text FROM (
    SELECT relation, min(struct(_metadata.file_name, _metadata.row_index)) AS place
    FROM parquet.`IN/kg` GROUP BY relation)
ORDER BY place;

-- Of several items with one entity the first has it.
INSERT OVERWRITE DIRECTORY 'WORK/first_link' USING parquet
SELECT entity AS text, min_by(item, place) AS item FROM (
    SELECT item, entity, struct(_metadata.file_name, _metadata.row_index) AS place
    FROM parquet.`IN/links`)
GROUP BY entity;

-- An item of the links that nobody touched has no number, and its entity is one of the others.
INSERT OVERWRITE DIRECTORY 'WORK/linked' USING parquet
SELECT f.text, f.item FROM parquet.`WORK/first_link` f
    LEFT SEMI JOIN parquet.`WORK/item` i ON f.item = i.text
    LEFT SEMI JOIN (
        SELECT head AS text FROM parquet.`IN/kg` UNION SELECT tail FROM parquet.`IN/kg`) k
        ON f.text = k.text;

-- A triple's head comes before its tail.
INSERT OVERWRITE DIRECTORY 'WORK/other' USING parquet
SELECT e.text FROM (
    SELECT text, min(place) AS place FROM (
        SELECT head AS text, struct(_metadata.file_name, _metadata.row_index, 0) AS place
        FROM parquet.`IN/kg`
        UNION ALL
        SELECT tail, struct(_metadata.file_name, _metadata.row_index, 1) FROM parquet.`IN/kg`)
    GROUP BY text) e
    LEFT ANTI JOIN parquet.`WORK/linked` l ON e.text = l.text
ORDER BY e.place;

CREATE OR REPLACE TEMPORARY VIEW placed AS
SELECT 'item' AS kind, text, _metadata.file_name AS file, _metadata.row_index AS row
FROM parquet.`WORK/item`
UNION ALL SELECT 'user', text, _metadata.file_name, _metadata.row_index FROM parquet.`WORK/user`
UNION ALL
SELECT 'relation', text, _metadata.file_name, _metadata.row_index FROM parquet.`WORK/relation`
UNION ALL SELECT 'other', text, _metadata.file_name, _metadata.row_index FROM parquet.`WORK/other`;

-- One row a file, so that this window is small.
CREATE OR REPLACE TEMPORARY VIEW number AS
SELECT p.kind, p.text, CAST(f.before + p.row AS INT) AS number FROM placed p JOIN (
    SELECT kind, file, sum(rows) OVER (PARTITION BY kind ORDER BY file) - rows AS before
    FROM (SELECT kind, file, count(*) AS rows FROM placed GROUP BY kind, file)) f
    ON p.kind = f.kind AND p.file = f.file;

INSERT OVERWRITE DIRECTORY 'WORK/entity' USING parquet
SELECT l.text, i.number FROM parquet.`WORK/linked` l JOIN number i
    ON i.kind = 'item' AND l.item = i.text
UNION ALL
SELECT text, CAST(number + (SELECT count(*) FROM parquet.`WORK/item`) AS INT)
FROM number WHERE kind = 'other';

INSERT OVERWRITE DIRECTORY 'OUT/users' USING parquet
SELECT number, text AS id FROM number WHERE kind = 'user' ORDER BY number;

INSERT OVERWRITE DIRECTORY 'OUT/items' USING parquet
SELECT number, text AS id FROM number WHERE kind = 'item' ORDER BY number;

INSERT OVERWRITE DIRECTORY 'OUT/relations' USING parquet
SELECT number, text AS id, text AS name FROM number WHERE kind = 'relation' ORDER BY number;

INSERT OVERWRITE DIRECTORY 'OUT/entities' USING parquet
SELECT number, max(text) AS id FROM (
    SELECT number, text FROM parquet.`WORK/entity`
    UNION ALL SELECT number, '' FROM number WHERE kind = 'item')
GROUP BY number ORDER BY number;

INSERT OVERWRITE DIRECTORY 'OUT/interactions' USING parquet
SELECT DISTINCT u.number AS user, i.number AS item, true AS positive
FROM parquet.`IN/interactions` r
    JOIN number u ON u.kind = 'user' AND r.user = u.text
    JOIN number i ON i.kind = 'item' AND r.item = i.text
ORDER BY user, item;

INSERT OVERWRITE DIRECTORY 'OUT/triples' USING parquet
SELECT head, relation, tail FROM (
    SELECT h.number AS head, r.number AS relation, t.number AS tail, k.place FROM (
        SELECT head, relation, tail, struct(_metadata.file_name, _metadata.row_index) AS place
        FROM parquet.`IN/kg`) k
        JOIN parquet.`WORK/entity` h ON k.head = h.text
        JOIN parquet.`WORK/entity` t ON k.tail = t.text
        JOIN number r ON r.kind = 'relation' AND k.relation = r.text)
ORDER BY place;
