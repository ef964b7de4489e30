"""The report: what it promises to other programs, what it says, and that no log can write on it."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from eval.report import make_report, render, report_numbers
from eval.report.answer import score_of
from eval.report.inputs import Comparison, HeadQuality, Missing, ReportInputs, RewardSection, ShownItem, WorldSection
from eval.report.metrics import number, percent, seconds, written
from eval.report.summary import print_summary
from tests.eval.made_up import log_inputs, rollouts, world_inputs


@pytest.fixture(scope="module")
def inputs() -> ReportInputs:
    return world_inputs()


@pytest.fixture(scope="module")
def folder(inputs: ReportInputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report")
    make_report(inputs, place)
    return place


def test_json_has_every_promised_path(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    metrics = ("active_days_28", "returned_7d", "habit_28", "plays_per_session")
    for name in ("logging", "sft", "dpo_click", "dpo", "ppo", "oracle"):
        for metric in metrics:
            assert set(report["world"]["policies"][name][metric]) == {"mean", "lo", "hi"}
            if name != "sft":
                assert set(report["world"]["paired_vs_sft"][name][metric]) >= {"diff", "lo", "hi"}
    for head in report["rewards"]["heads"].values():
        assert {"baseline", "ece"} <= set(head)
        assert "auc" in head or "c_index" in head
    for estimates in report["ope"].values():
        for estimate in estimates.values():
            assert {"value", "lo", "hi", "ess"} <= set(estimate)
    assert {"transition_count", "popularity", "ppo"} <= set(report["ranking"])
    assert all({"hr@10", "ndcg@10"} <= set(by) for by in report["ranking"].values())
    assert all(value > 0 for value in report["timing"].values())


def test_spread_front_and_baselines_are_on_the_page_as_in_the_json(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    page = (folder / "index.html").read_text()
    for by in report["fairness"]["gains"].values():
        for gain in by.values():
            assert written("active_days_28", gain["diff"], True) in page
    for shares in report["fairness"]["by_tenth"].values():
        assert sum(shares) == pytest.approx(1.0)
        assert all(f"<td>{percent(share)}</td>" in page for share in shares)
    points = report["pareto"]["points"]
    assert [point["weights"]["plays"] for point in points] == pytest.approx([step / 10 for step in range(11)])
    assert points[0]["gain"]["active_days_28"] > points[-1]["gain"]["active_days_28"]
    assert all(says in page for says in report["pareto"]["sentences"])
    for head in report["rewards"]["heads"].values():
        best = max([score_of(head)[1], *head["baselines"].values()])
        assert f"<b>{number(best)}</b><small>best</small>" in page, "of ours and theirs"
        assert all(number(value) in page for value in head["baselines"].values())
    assert page.count("<small>best</small>") == len(report["rewards"]["heads"]), "one of a row"
    assert "Boosted trees on counts</th>" in page


def test_refused_estimates_are_null_and_say_why(folder: Path) -> None:
    estimate = json.loads((folder / "report.json").read_text())["ope"]["ppo"]["snips"]
    assert estimate["value"] is None
    assert estimate["lo"] is None
    assert estimate["ess"] > 0
    assert "effective users" in estimate["refused"]
    assert "PPO: no value" in (folder / "index.html").read_text()


def test_page_is_small_and_asks_for_nothing(folder: Path) -> None:
    page = (folder / "index.html").read_text()
    assert len(page) < 3_000_000
    assert "<script" not in page
    assert "@import" not in page
    outside = [link for link in re.findall(r'(?:src|href|url\()\s*=?\s*["\']?([^"\')\s>]+)', page) if "://" in link]
    assert outside == []
    assert not list(folder.glob(".*")), "nothing half-written is left behind"


def test_every_figure_is_drawn_and_described(folder: Path) -> None:
    page = (folder / "index.html").read_text()
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) == page.count("<figure") > 15
    for drawing in drawings:
        assert 'role="img"' in drawing
        assert re.search(r'aria-label="[^"]{20,}"', drawing)
        assert "nan" not in drawing.lower().replace("unexplained", "")


def test_the_page_says_what_the_json_says(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    page = (folder / "index.html").read_text()
    for policy, by in report["world"]["policies"].items():
        for metric, cell in by.items():
            assert written(metric, cell["mean"]) in page, (policy, metric)
    for head in report["rewards"]["heads"].values():
        assert percent(head["ece"], 2) in page
        assert head["ece_chance"] is None or f"chance {percent(head['ece_chance'], 2)}" in page
    for level in report["semantic_ids"]:
        assert f"<td>{percent(level['share'], 2)}</td><td>{percent(level['random'], 2)}</td>" in page


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 7*7 }}</title></style>"


class Elements(HTMLParser):
    """Collects the elements and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def hostile(inputs: ReportInputs) -> ReportInputs:
    """The same report with hostile text wherever a log or a user can put text."""
    item = ShownItem(HOSTILE, HOSTILE, HOSTILE, (HOSTILE,), HOSTILE)
    listener = replace(
        inputs.slates[0], listener=HOSTILE, says=HOSTILE, moment=HOSTILE, history=[item], slates={HOSTILE: [item]}
    )
    world = replace(rollouts()[0], metrics={**rollouts()[0].metrics, HOSTILE: rollouts()[0].metrics["ppo"]})
    return replace(
        inputs,
        run=HOSTILE,
        source=HOSTILE,
        slates=[listener],
        world=WorldSection([world], HOSTILE),
        rewards=RewardSection({HOSTILE: HeadQuality("auc", 0.7, {HOSTILE: 0.6})}, {HOSTILE: 1.0}),
        notes=(HOSTILE,),
        timing={HOSTILE: 1.0},
        manifest={HOSTILE: HOSTILE},
        candidate=HOSTILE,
        comparison=Comparison(HOSTILE, report_numbers(inputs)),
    )


def test_titles_from_a_log_are_text_and_never_markup(inputs: ReportInputs) -> None:
    report = report_numbers(hostile(inputs))
    page = render(report)
    clean, attacked = Elements(), Elements()
    clean.feed(render(report_numbers(inputs)))
    attacked.feed(page)
    assert "script" not in attacked.tags
    assert "img" not in attacked.tags
    assert "onerror" not in attacked.attributes
    assert attacked.tags <= clean.tags
    assert "{{ 7*7 }}" in page.replace("&#34;", '"').replace("&#39;", "'"), "text is shown, not evaluated"
    print_summary(report, Console(file=open("/dev/null", "w"), width=100))  # noqa: SIM115


def test_brackets_in_titles_are_not_terminal_markup(inputs: ReportInputs) -> None:
    console = Console(record=True, width=120, file=open("/dev/null", "w"))  # noqa: SIM115
    print_summary(report_numbers(replace(inputs, timing={"[red]stage[/red]": 3.0})), console)
    assert "[red]stage[/red]" in console.export_text()


def test_answer_is_a_gain_only_off_zero() -> None:
    gain = report_numbers(world_inputs())["answer"]
    assert gain["verdict"] == "gain"
    assert gain["policy"] == "ppo"
    assert "more active days" in gain["headline"]
    nothing = replace(world_inputs(), world=WorldSection(rollouts(gains=0.0)))
    unclear = report_numbers(nothing)["answer"]
    assert unclear["verdict"] == "unclear"
    assert "No policy here is shown" in unclear["headline"]
    worse = replace(world_inputs(), world=WorldSection(rollouts(gains=-1.0)), candidate="ppo")
    assert report_numbers(worse)["answer"]["verdict"] == "loss"


def test_a_gain_that_another_training_may_not_repeat_is_said_to_be_one() -> None:
    """Each seed's listeners gain for sure, but seeds disagree: the interval over trainings holds zero."""
    lucky = [replace(rollouts(gains=gain)[0], seed=seed) for seed, gain in enumerate((0.2, 0.3, 3.0))]
    answer = report_numbers(replace(world_inputs(), world=WorldSection(lucky)))["answer"]
    assert answer["verdict"] == "gain"
    assert any("another training may not repeat it" in point["says"] for point in answer["points"])


def test_answer_is_never_about_the_oracle_or_a_click_twin() -> None:
    report = report_numbers(replace(world_inputs(), world=WorldSection(rollouts(gains=-1.0))))
    assert report["answer"]["policy"] in ("dpo", "ppo")


def test_the_answer_says_what_a_gain_costs_in_variety(inputs: ReportInputs) -> None:
    report = report_numbers(inputs)
    (says,) = [point["says"] for point in report["answer"]["points"] if point["what"] == "What it costs in variety"]
    assert f"as varied as {number(report['exposure']['ppo']['effective_items'])} items" in says
    assert f"gets {percent(report['fairness']['by_tenth']['ppo'][0], 0)} of them" in says


def test_the_answer_sets_the_policy_beside_todays_and_says_what_it_forgot(inputs: ReportInputs) -> None:
    report = report_numbers(inputs)
    points = {point["what"]: point["says"] for point in report["answer"]["points"]}
    people = inputs.world.rollouts[0].metrics
    gap = people["ppo"]["active_days_28"] - people["logging"]["active_days_28"]
    assert points["Against today"].startswith(f"{written('active_days_28', float(gap.mean()), True)} active days of 28")
    assert "in 5.1% of cases, SFT in 6.6%" in points["Knowing what comes next"]


def test_an_item_that_everybody_gets_is_marked(inputs: ReportInputs) -> None:
    first, second, third = inputs.slates
    own = replace(second, slates={**second.slates, "ppo": [ShownItem("Her Own", "Mira Holt")]})
    report = report_numbers(replace(inputs, slates=[first, own, third]))
    assert [item["listeners"] for item in report["slates"][0]["slates"]["ppo"]] == [2, 2, 2]
    page = render(report)
    assert "Her Own<small>" in page
    assert 'Harbour Lights <span class="same">to 2 of 3</span>' in page
    assert 'Instant Hit <span class="same">to all 3</span>' in page


def test_several_reasons_to_refuse_are_one_box(inputs: ReportInputs) -> None:
    ppo = inputs.off_policy.values["ppo"]
    thin = replace(ppo, support=replace(ppo.support, refused="not supported by this log: 3 effective users"))
    both = replace(inputs.off_policy, values={"ppo": ppo, "dpo": thin})
    page = render(report_numbers(replace(inputs, off_policy=both)))
    assert page.count('<div class="refused">') == 1
    assert "PPO, DPO: no value</b> This is no verdict" in page
    assert "<li>DPO: not supported by this log: 3 effective users.</li>" in page


def test_what_a_log_lacks_comes_first_unless_a_world_knows_more(inputs: ReportInputs) -> None:
    lacking = replace(inputs, missing=(Missing("candidates", "every item could have been shown"),))
    page = render(report_numbers(lacking))
    assert page.index('id="policies"') < page.index('id="missing"')
    assert "<b>Candidates:</b> Every item" in page
    page = render(report_numbers(log_inputs()))
    assert page.index('id="missing"') < page.index('id="rewards"')


def test_seeds_show_both_intervals() -> None:
    report = report_numbers(world_inputs(seeds=3))
    assert "trainings +" in render(report)
    gap = report["world"]["paired_vs_sft"]["ppo"]["active_days_28"]
    assert len(gap["by_seed"]) == 3
    assert gap["seeds_lo"] < gap["diff"] < gap["seeds_hi"]


def test_a_real_log_says_what_it_lacks_and_claims_nothing(tmp_path: Path) -> None:
    report = make_report(log_inputs(), tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert "world" not in report
    assert "Policies side by side" not in page
    assert report["answer"]["verdict"] == "unknown"
    assert "Impressions:</b> The items of a session" in page
    assert page.count("SFT, PPO: no value") == 1, "one reason is said once"
    assert all(e["value"] is None for by in report["ope"].values() for e in by.values())


def test_an_empty_report_is_still_a_page(tmp_path: Path) -> None:
    make_report(ReportInputs(run="r", source="s", preset="nano"), tmp_path)
    assert "The run" in (tmp_path / "index.html").read_text()


def test_comparison_puts_two_runs_side_by_side(inputs: ReportInputs) -> None:
    other = report_numbers(replace(inputs, timing={"sft": 3000.0}))
    report = report_numbers(replace(inputs, comparison=Comparison("smollm2", json.loads(json.dumps(other)))))
    rows = report["comparison"]["rows"]
    times = [row for row in rows if row["part"] == "time"]
    assert times[0]["other"] == 3000.0
    assert any("PPO: active days" in row["what"] for row in rows)
    assert "Beside smollm2" in render(report)


def test_comparison_on_the_same_listeners_says_what_the_other_model_changed(inputs: ReportInputs) -> None:
    smaller = json.loads(json.dumps(report_numbers(inputs)))
    worse = rollouts(seeds=1, gains=0.5)[0]
    report = report_numbers(replace(inputs, comparison=Comparison("nano", smaller, worse)))
    gap = report["comparison"]["paired"]["ppo"]["active_days_28"]
    assert 0.5 < gap["lo"] < gap["diff"] < gap["hi"] < 1.5  # half of PPO's 1.8 days
    assert set(report["comparison"]["paired"]) == {"sft", "dpo_click", "dpo", "ppo"}
    said = f"PPO: {written('active_days_28', gap['diff'], True)} active days of 28 against nano"
    assert said in render(report)


def test_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_report(world_inputs(), tmp_path / name)
    for file in ("index.html", "report.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_terminal_summary_names_the_policies_and_the_answer(inputs: ReportInputs) -> None:
    console = Console(record=True, width=160, file=open("/dev/null", "w"))  # noqa: SIM115
    print_summary(report_numbers(inputs), console, Path("runs/demo/reports/index.html"))
    text = console.export_text()
    for words in ("PPO would bring people back", "oracle", "transition count", "refused", "runs/demo/reports"):
        assert words in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (float("nan"), "–"), (0.0, "0"), (1234567, "1,234,567"), (-0.01234, "−0.0123"), (99.96, "100"),
     (0.00004, "4.00e-05"), (12.345, "12.3"), (True, "–")],
)  # fmt: skip
def test_numbers_in_words(value: object, text: str) -> None:
    assert number(value) == text


def test_differences_carry_a_sign_and_shares_their_points() -> None:
    assert written("active_days_28", 1.6, True) == "+1.60"
    assert written("active_days_28", -0.001, True) == "0.00"
    assert written("returned_7d", -0.0251, True) == "−2.5 pts"
    assert percent(0.361, 0) == "36%"
    assert [seconds(s) for s in (0.42, 12, 200, 3900)] == ["0.4 s", "12 s", "3 min 20 s", "1 h 05 min"]


def test_the_guide_names_every_part_of_the_json(folder: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "read-a-report.md").read_text()
    report = json.loads((folder / "report.json").read_text())
    for part in set(report) - {"format", "run", "source", "preset", "ranking_about"}:
        assert part in guide, part
