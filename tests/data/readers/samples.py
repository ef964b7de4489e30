"""Small made-up logs in each source's published format, as tables: what a test writes, breaks, and reads."""

import json
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl

Tables = dict[str, pl.DataFrame]


def text(names: str, *rows: str) -> pl.DataFrame:
    """A table of strings from lines with commas (a | stands for a comma within a value)."""
    cells = [[cell.replace("|", ",") for cell in row.split(",")] for row in rows]
    return pl.DataFrame(cells, dict.fromkeys(names.split(","), pl.String), orient="row")


def write(tables: Tables, folder: Path) -> None:
    """Tables as files: typed Parquet, JSON objects (one row a key), or text with the separator of its kind."""
    for name, table in tables.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            table.write_parquet(file)
        elif name.endswith(".json"):
            file.write_text(json.dumps(dict(table.rows())))
        else:
            file.write_bytes(as_text(name, table))


def as_text(name: str, table: pl.DataFrame) -> bytes:
    """The bytes of a .csv, .tsv or .dat file; values that hold a comma are quoted in a .csv."""
    between = {"tsv": "\t", "dat": "::"}.get(name.rsplit(".", 1)[1], ",")
    lines = [between.join(quoted(v or "", between) for v in row) for row in table.rows()]
    headless = name.endswith(".dat") or name.startswith("userid-timestamp")
    return "\n".join([*([] if headless else [between.join(table.columns)]), *lines, ""]).encode()


def quoted(value: str, between: str) -> str:
    return f'"{value}"' if between in value else value


def globo() -> Tables:
    at = [datetime(2017, 10, d, 12) for d in (2, 2, 3, 4)]  # noqa: DTZ001
    clicks = {"user_id": [1, 1, 2, 3], "session_id": [10, 10, 11, 12], "session_start": at, "article_id": [5, 6, 5, 7]}
    return {"clicks.parquet": pl.DataFrame(clicks | {"click_ts": at}).with_columns(environment=pl.lit(4))}


def cdnow() -> Tables:
    days = [date(1997, 1, 1), date(1997, 1, 1), date(1997, 3, 4), date(1998, 6, 30)]
    rows = {"customer_id": [1, 1, 2, 3], "date": days, "n_cds": [1, 1, 5, 2], "dollars": [9.5, 9.5, 60.0, 20.25]}
    return {"transactions.parquet": pl.DataFrame(rows)}


def amazon() -> Tables:
    inter = pl.DataFrame({"user": ["0", "1", "2"], "items": [[0, 1, 2], [2, 0], [1]]})
    facts = {"title": ["Beaker", "Tongs"], "brand": ["Kiln & Co", "Forge"], "categories": ["Lab,Glass", "Tools"]}
    about = pl.DataFrame(facts | {"description": ["Holds 50 ml.", "Steel."]})
    return {"S.inter.json": inter, "S.item.json": pl.DataFrame({"item": ["0", "1"], "facts": about.to_dicts()})}


def situnes() -> Tables:
    plays = {
        "user_id": [1, 1, 2, 3],
        "item_id": [4, 5, 4, 9],
        "timestamp": [1625000000, 1625100000, 1625200000, 1645000000],
        "rating": [4, 1, 3, 5],
        "duration": [61.5, None, 200.0, 130.0],
        "stage": [1, 2, 2, 3],
        "rec_type": [None, None, "Rand", "Situ-MT"],
    }
    music = {
        "i_id_c": [4.0, 5.0],
        "music": ["Lantern", "Tide"],
        "singer": ["Mira", "Oto"],
        "duration": [187500.0, None],
    }
    music |= {"general_genre": ["folk", "jazz"]}
    return {"interactions.parquet": pl.DataFrame(plays), "music_info.parquet": pl.DataFrame(music)}


def open_bandit() -> Tables:
    names = ",timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,user_feature_2"
    names += ",user_feature_3,user-item_affinity_0"
    stamp = "2019-11-24 00:00:0"
    random = text(
        names,
        f"0,{stamp}1.123456+00:00,0,1,0,0.5,a,b,c,d,0.0",
        f"1,{stamp}2.000001+00:00,1,3,1,0.5,a,b,c,e,1.0",
        f"2,{stamp}3+00:00,1,2,1,0.5,a,b,c,d,0.0",
    )
    bts = text(names, f"0,{stamp}4.5+00:00,0,2,1,0.0123,a,b,c,d,0.0", f"1,{stamp}5.5+00:00,1,1,0,0.9,a,x,c,d,0.0")
    context = text(
        ",item_id,item_feature_0,item_feature_1,item_feature_2,item_feature_3",
        "0,0,-0.7,ee,ff,gg",
        "1,1,0.2,ee,hh,gg",
    )
    files = {"random/all/all.csv": random, "bts/men/men.csv": bts}
    return files | {"random/all/item_context.csv": context, "bts/men/item_context.csv": context}


def hillstrom() -> Tables:
    names = "recency,history_segment,history,mens,womens,zip_code,newbie,channel,segment,visit,conversion,spend"
    rows = [
        "3,1) $0 - $100,77.5,0,1,Urban,1,Web,Womens E-Mail,1,0,0",
        "12,4) $350 - $500,400.25,1,0,Surburban,0,Phone,No E-Mail,0,0,0",
        "1,2) $100 - $200,123.45,1,1,Rural,0,Phone,Mens E-Mail,1,1,12.5",
        "5,3) $200 - $350,250.0,0,1,Urban,1,Multichannel,Mens E-Mail,0,0,0",
    ]
    return {"hillstrom.csv": text(names, *rows)}


def cookie_cats() -> Tables:
    names = "userid,version,sum_gamerounds,retention_1,retention_7"
    rows = ["70,gate_30,2,False,False", "71,gate_30,40,True,False", "72,gate_40,90,False,True", "8,gate_40,5,True,True"]
    return {"cookie_cats.csv": text(names, *rows)}


def kuairand() -> Tables:
    names = "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view"
    names += ",play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
    standard = text(
        names,
        "1,7,20220421,400,1650485000001,1,1,0,0,0,0,1,12000,10000,0,0,0,0,1",
        "1,8,20220421,400,1650485100002,0,0,0,0,0,1,0,900,10000,0,0,0,0,1",
        "2,7,20220421,500,1650489000003,0,0,0,0,0,0,0,0,10000,0,0,0,0,4",
    )
    random = text(
        names,
        "2,9,20220425,500,1650834000000,1,0,0,0,0,0,0,8000,60000,0,0,0,1,1",
        "1,7,20220426,600,1650924000000,0,0,0,0,0,0,0,500,10000,0,0,0,1,0",
    )
    users = "user_id,user_active_degree,is_live_streamer,is_video_author,follow_user_num,follow_user_num_range"
    videos = "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,tag"
    return {
        "log_standard_4_08_to_4_21_pure.csv": standard,
        "log_random_4_22_to_5_08_pure.csv": random,
        "user_features_pure.csv": text(
            f"{users},fans_user_num,register_days", "1,full_active,0,1,7,(0|10],3,1200", "2,UNKNOWN,0,0,0,0,0,40"
        ),
        "video_features_basic_pure.csv": text(
            videos, "7,31,NORMAL,2021-02-03,Web,1,10000.0,4|9", "8,32,AD,2021-02-04,Web,1,,3"
        ),
    }


def lastfm_1k() -> Tables:
    names = "user,time,artid,artname,traid,traname"
    plays = text(
        names,
        "user_000001,2008-02-03T10:20:30Z,a-1,Ines & Co,t-1,Harbour",
        'user_000001,2008-02-03T10:16:00Z,,"Nils",,"Again" (live)',
        "user_000002,2007-11-12T20:00:01Z,a-1,Ines & Co,t-1,Harbour",
        "user_000002,2007-11-12T20:05:02Z,a-2,Ödmann,,Snö",
    )
    profile = text("#id,gender,age,country,registered", "user_000001,m,,Iceland,Jan 2| 2006", "user_000002,,31,Peru,")
    return {"userid-timestamp-artid-artname-traid-traname.tsv": plays, "userid-profile.tsv": profile}


def yambda() -> Tables:
    listens = {"uid": [100, 100, 200, 200], "timestamp": [50, 260, 50, 90_000], "item_id": [1, 2, 1, 3]}
    listens |= {
        "is_organic": [0, 1, 1, 0],
        "played_ratio_pct": [100, 20, 60, 104],
        "track_length_seconds": [200, 180, 200, 90],
    }
    likes = {"uid": [100, 200], "timestamp": [55, 90_010], "item_id": [1, 3], "is_organic": [0, 0]}
    dislikes = {"uid": [200], "timestamp": [95_000], "item_id": [2], "is_organic": [1]}
    small = {"uid": pl.UInt32, "timestamp": pl.UInt32, "item_id": pl.UInt32, "is_organic": pl.UInt8}
    tables = {name: pl.DataFrame(rows).cast(small) for name, rows in [("likes", likes), ("dislikes", dislikes)]}
    tables["listens"] = pl.DataFrame(listens).cast(small | {"played_ratio_pct": pl.UInt16})
    mapping = pl.DataFrame({"artist_id": [70, 71], "item_id": [1, 2]})
    return {f"{n}.parquet": t for n, t in tables.items()} | {"artist_item_mapping.parquet": mapping}


def movielens() -> Tables:
    rows = ["1,10,4.0,1500000000", "1,20,0.5,1500000060", "2,10,3.0,1500600000", "2,30,5.0,1500600100"]
    movies = ["10,Lantern| The (1995),Drama|Comedy", "20,Tide (1999),(no genres listed)"]
    films = text("movieId,title,genres", *movies).with_columns(pl.col("genres").str.replace_all(",", "|", literal=True))
    return {"ratings.csv": text("userId,movieId,rating,timestamp", *rows), "movies.csv": films}


SAMPLES = {
    "globo": globo,
    "cdnow": cdnow,
    "amazon": amazon,
    "situnes": situnes,
    "open_bandit": open_bandit,
    "hillstrom": hillstrom,
    "cookie_cats": cookie_cats,
    "kuairand": kuairand,
    "lastfm_1k": lastfm_1k,
    "yambda": yambda,
    "movielens": movielens,
}
BEGIN = datetime(2000, 1, 1, tzinfo=UTC)
