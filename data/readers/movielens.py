"""MovieLens (Harper & Konstan 2015): stars for films, as ml-latest, ml-25m, ml-32m (.csv) or ml-1m, ml-10m (.dat).

    ratings.csv: userId,movieId,rating,timestamp            movies.csv: movieId,title,genres
    ratings.dat: UserID::MovieID::Rating::Timestamp         movies.dat: MovieID::Title::Genres

| ours | theirs |
|---|---|
| user_id, item_id, time | userId, movieId, timestamp (seconds) |
| action | like for 4 stars and more, dislike for 2 and fewer, play between |
| value | rating |
| title, tags | title with its year, genres |
"""

from pathlib import Path

import polars as pl

from data.logs import Logs
from data.readers.columns import find, must_find, noted, only, read_lines, read_rows, rejected, with_items_seen

_RATING = {"userId": "id", "movieId": "id", "rating": "number", "timestamp": "seconds"}
_MOVIE = {"movieId": "id", "title": "text?", "genres": "text?"}
_NO_GENRE = "(no genres listed)"
NOTES = {
    "time": "when the film was rated, often dozens in one sitting, not when it was seen: a return is one to the site",
    "decisions": "the log holds ratings, not what was shown: the first films of a sitting stand for its slate",
    "propensity": "not published: off-policy values cannot be estimated from this log",
    "action": "4 stars and more are a like, 2 and fewer a dislike, between them a play; value holds the stars",
    "seconds": "viewing time is not published: minutes_1d is left out",
    "surface": "not published: all is 'other'",
    "time_zone": "not published: local days are days in UTC",
    "users": "kept by the publisher only with 20 ratings and more; ml-1m's age and occupation (users.dat) are left out",
    "creator": "not published, nor is the length; the release year is in the title",
}


def read(path: Path) -> Logs:
    """Read the folder, or the ratings file beside its movies file; raises InputError naming what is not right."""
    file = must_find(Path(path), "ratings.csv", "ratings.dat")[0]
    if ".dat" in file.suffixes:
        rows = read_lines(file, "^(.*?)::(.*?)::(.*?)::(.*)$", _RATING)
        movie, movies = "^(.*?)::(.*)::(.*?)$", find(file.parent, "movies.dat")
    else:
        rows = read_rows(file, _RATING)
        # Titles hold commas: what is between the first and the last is the title.
        movie, movies = "^([^,]*),(.*),([^,]*)$", find(file.parent, "movies.csv")
    rows = rows.reject("rating is not 0.5 to 5", ~pl.col("rating").is_between(0.5, 5))
    stars = pl.col("rating")
    events = rows.frame.with_columns(
        user_id=pl.col("userId"),
        time=pl.col("timestamp"),
        surface=pl.lit("other"),
        action=pl.when(stars >= 4)
        .then(pl.lit("like"))
        .when(stars <= 2)
        .then(pl.lit("dislike"))
        .otherwise(pl.lit("play")),
        item_id=pl.col("movieId"),
        value=stars,
    )
    parts, known = [rows], None
    if movies:
        found = read_lines(movies[0], movie, _MOVIE, "items", header=".csv" in movies[0].suffixes)
        parts.append(found.reject("movieId is there twice", ~pl.col("movieId").is_first_distinct(), "items"))
        title = pl.col("title").str.strip_prefix('"').str.strip_suffix('"').str.replace_all('""', '"')
        known = parts[-1].frame.select(
            item_id="movieId",
            kind=pl.lit("video"),
            title=title,
            tags=pl.col("genres").replace(_NO_GENRE, None).str.split("|"),
        )
    items = with_items_seen(known, events["item_id"], "video")
    return Logs(items, only("events", events), notes=noted(NOTES, *parts), rejected=rejected(*parts))
