"""Relations as files have them, and as people say them: of the texts of parts and of the page."""

RELATIONS = {
    "film.film.directed_by": "directed by",
    "/film/film/genre": "genre",
    "http://www.w3.org/2000/01/rdf-schema#see_also": "see also",
    "directed_by": "directed by",
    "directed by": "directed by",
    "film.acteur.né_à": "né à",
    "attribute.1": "attribute.1",
    "has_part.2a": "has_part.2a",
    "v1.0": "v1.0",
    "v1.0 genre": "v1.0 genre",
    "St. Mary": "St. Mary",
    "rel. to": "rel. to",
    "film.": "film.",
    "film._": "film._",
    "http://x.example/genre/": "http://x.example/genre/",
    "": "",
}
