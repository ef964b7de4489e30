"""The Hillstrom reader: on a small file made to its format, and, where it is at hand, on the real one."""

import json
from pathlib import Path

import polars as pl
import pytest

from data.errors import InputError
from data.outcomes import outcomes, read_outcomes, write_outcomes
from data.readers import hillstrom
from tests.data.readers.round_trip import counted, real_log, round_trip
from tests.data.readers.samples import SAMPLES, write


def test_an_arm_is_a_decision_and_a_visit_a_return_within_14_days(tmp_path: Path) -> None:
    write(SAMPLES["hillstrom"](), tmp_path)
    logs = hillstrom.read(tmp_path)
    store = round_trip(logs, tmp_path / "s")
    made = store.decisions().sort("user_id")
    assert made["arm"].to_list() == ["womens_email", "no_email", "mens_email", "mens_email"]
    assert made["slate"].to_list() == [[arm] for arm in made["arm"]]
    assert made["channel"].to_list() == ["email", None, "email", "email"]
    assert made["propensity"].to_list() == [pytest.approx(1 / 3)] * 4
    table = outcomes(store.events(), made, store.users(), store.end)
    assert table["returned_14d"].to_list() == [True, False, True, False]  # the published visit
    assert table["returned_28d"].null_count() == 4  # not followed for that long
    write_outcomes(store, tmp_path / "outcomes")
    kept = read_outcomes(tmp_path / "outcomes")
    assert kept.labels == ("returned_14d",)  # what any other label would say is not published
    assert kept.table.sort("user_id")["returned_14d"].to_list() == [True, False, True, False]
    assert store.events()["value"].drop_nulls().to_list() == [pytest.approx(12.5)]
    users = store.users()
    assert users is not None
    assert json.loads(users.sort("user_id")["attributes"][2])["history"] == 123.45


def test_an_unknown_arm_is_rejected_and_quoted_values_are_read(tmp_path: Path) -> None:
    write(SAMPLES["hillstrom"](), tmp_path)
    file = tmp_path / "hillstrom.csv"
    lines = file.read_text().splitlines()
    quoted = [",".join(f'"{cell}"' for cell in line.split(",")) for line in lines]
    quoted[1] = quoted[1].replace("Womens E-Mail", "Postcard")
    file.write_text("\r\n".join(quoted))
    logs = hillstrom.read(file)
    assert counted(logs) == {"segment is not one of the three arms": 1}
    assert logs.decisions is not None
    assert logs.decisions["arm"].to_list() == ["no_email", "mens_email", "mens_email"]
    file.write_text("\n".join(line.replace("E-Mail", "Mail") for line in lines))
    assert counted(hillstrom.read(file)) == {"segment is not one of the three arms": 4}
    file.write_text(file.read_text().replace("segment", "arm"))
    with pytest.raises(InputError, match=r"hillstrom\.csv: column 'segment' \(row 0\) is missing"):
        hillstrom.read(file)


def test_the_real_trial_has_the_published_effects(tmp_path: Path) -> None:
    logs = hillstrom.read(real_log("hillstrom_email_rct"))
    store = round_trip(logs, tmp_path / "s")
    table = outcomes(store.events(), store.decisions(), store.users(), store.end, labels=["returned_14d"])
    arms = table.join(store.decisions().select("decision_id", "arm"), on="decision_id")
    visits = dict(arms.group_by("arm").agg(pl.col("returned_14d").mean()).rows())
    assert visits == {
        "mens_email": pytest.approx(0.18276, abs=1e-5),
        "womens_email": pytest.approx(0.1514, abs=1e-5),
        "no_email": pytest.approx(0.10617, abs=1e-5),
    }
    bought = store.events().filter(pl.col("action") == "convert").join(store.decisions(), on="user_id")
    assert dict(bought["arm"].value_counts().rows()) == {"mens_email": 267, "womens_email": 189, "no_email": 122}
    spent = dict(bought.group_by("arm").agg(pl.col("value").sum()).rows())
    assert spent["mens_email"] / 21_307 == pytest.approx(1.42262, abs=1e-4)
