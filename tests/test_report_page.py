"""The page of a run: whole, right to the digit, harmless, and honest about what is not there."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib", reason="reports need the report extra")
pytest.importorskip("timm", reason="made-up runs are written by the stages' own writers")

from report_run import EPOCHS, SCORES, losses, write_network, write_run  # noqa: E402

from dna_fast._files import read_json, write_json  # noqa: E402
from dna_fast.architecture import Architecture  # noqa: E402
from dna_fast.cost import architecture_cost, cost_table  # noqa: E402
from dna_fast.query import Query, answer, in_words, write_answer  # noqa: E402
from dna_fast.report_facts import Score, read_log, read_run  # noqa: E402
from dna_fast.report_html import Html  # noqa: E402
from dna_fast.report_page import report_page, write_report  # noqa: E402
from dna_fast.report_search import baseline_marks, verdict  # noqa: E402
from dna_fast.space import preset  # noqa: E402
from dna_fast.tables import CostTable, RatingTable  # noqa: E402

VOID = {"meta", "br", "hr", "link", "img", "input"}


class Page(HTMLParser):
    """A parsed page; complains about tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.marked: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self.tags.append((tag, known))
        if "id" in known:
            self.ids.append(known["id"])
        if tag == "tr":
            self.rows.append([])
            if known.get("class") == "marked":
                self.marked.append(self.rows[-1])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> ends nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def row(self, first: str) -> list[str]:
        return next(row for row in self.rows if row and row[0] == first)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "finished"
    write_run(directory)
    return directory


@pytest.fixture(scope="module")
def html(finished: Path) -> str:
    return report_page([read_run(finished)])


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the pictures out, which take most of a page's time, where only words matter."""
    from dna_fast import report_charts

    for name in ("picture", "pictures"):
        monkeypatch.setattr(report_charts, name, lambda *given, **sizes: Html("<svg></svg>"))


def test_the_page_is_whole_and_needs_nothing_else(html: str, page: Page) -> None:
    assert html.startswith("<!DOCTYPE html>")
    assert len(set(page.ids)) == len(page.ids)
    used = {a["href"][1:] for _, a in page.tags if "href" in a} | set(re.findall(r"url\(#([^)]*)\)", html))
    assert used <= set(page.ids)
    assert {"script", "link", "img", "iframe"}.isdisjoint(tag for tag, _ in page.tags)
    assert set(re.findall(r"https?://[^\"' ]+", html)) == {"http://www.w3.org/2000/svg"}
    assert dict(page.tags)["html"] == {"lang": "en"}


def test_pictures_have_a_title_and_the_colours_of_the_theme(html: str) -> None:
    drawn = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(drawn) == 2 * 4 + 2  # accuracies, front, two losses, each wide and narrow; two blocks
    for svg in drawn:
        assert 'role="img"' in svg
        assert re.search(r"<title[^>]*>\w", svg)
        assert set(re.findall(r"#[0-9a-fA-F]{6}\b", svg)) == set()
        assert all("fill: var(--" in tag for tag in re.findall(r"<text[^>]*>", svg))
        drawn_tags = re.findall(r"<(?:path|use)[^>]*style=\"([^\"]*)\"", svg)
        assert all("var(--" in style for style in drawn_tags)


def test_networks_have_the_costs_and_accuracies_of_their_files(finished: Path, page: Page) -> None:
    for name, correct in SCORES.items():
        costs = architecture_cost(Architecture.load(finished / "models" / name / "architecture.json"))
        low, high = read_json(finished / "models" / name / "training.json")["accuracy"]["interval_95"]
        cells = page.row(name)
        assert cells[1:4] == [f"{costs[n]:,}" for n in ("macs", "params", "activation_bytes")]
        assert cells[4:6] == [f"{correct}.0 % [{100 * low:.1f}, {100 * high:.1f}]", f"{correct} of 100"]
    assert page.row("teacher")[1] == "7,654,321"


def test_the_verdict_follows_the_intervals(page: Page) -> None:
    # 80 of 100 is [71, 87]: 78 and 90 of 100 overlap it, 99 of 100 does not
    assert "The found network is less accurate than largest: the intervals lie apart." in page.text
    assert (
        "The found network’s interval overlaps that of random_0, teacher: 100 evaluation images show no difference."
        in page.text
    )


@pytest.mark.parametrize(
    ("other", "expected"),
    [((0.4, 0.5), True), ((0.5, 0.9), True), ((0.1, 0.39), False), ((0.61, 0.9), False), ((0.0, 1.0), True)],
)
def test_overlap_of_intervals(other: tuple[float, float], expected: bool) -> None:
    assert Score(1, 2, 0.4, 0.6).overlaps(Score(1, 2, *other)) is expected
    assert Score(1, 2, *other).overlaps(Score(1, 2, 0.4, 0.6)) is expected


def test_the_front_and_the_solutions_are_the_tables(finished: Path, page: Page) -> None:
    facts = read_run(finished)
    query = facts.query()
    assert query is not None
    front = query.front("macs")
    head = page.rows.index(["macs", "rating", "blocks"])
    points = page.rows[head + 1 : head + 1 + len(front.loss)]
    expected = zip(front.costs["macs"], front.loss, strict=True)
    assert [row[:2] for row in points] == [[f"{macs:,}", f"{loss:.6f}"] for macs, loss in expected]
    assert f"exact Pareto front, {len(front.loss)} points" in page.text
    for name in ("random_0", "largest"):
        arch = Architecture.load(finished / "models" / name / "architecture.json")
        assert f"{name}: {query.loss(arch.candidates):.4g}" in page.text
    head = next(i for i, row in enumerate(page.rows) if row[:2] == ["rank", "sum of relative_l1"])
    for rank, solution in enumerate(read_json(finished / "search.json")["solutions"], start=1):
        cells = page.rows[head + rank]
        assert cells[1:3] == [f"{solution['loss']:.6f}", f"{solution['costs']['macs']:,}"]
        told = {True: "no", False: "yes", None: "–"}[solution["indistinguishable"]]
        assert cells[-2:] == ["–" if rank == 1 else told, " | ".join(solution["blocks"])]


def _search_again(directory: Path, **asked: Any) -> None:
    plain = read_run(directory).query()
    assert plain is not None
    query = replace(plain, **asked)
    write_answer(query, answer(query), directory)


def test_the_rules_of_the_search_are_told_and_hold_for_its_front(run: Path) -> None:
    _search_again(run, forbid=("op0",), min_differences=2)
    facts = read_run(run)
    query = facts.query()
    assert query is not None
    assert all("0" not in words.split()[1] for words in _front_blocks(query))
    page = Page(report_page([read_run(run)]))
    assert "; forbidden op0; every two differ in at least 2 blocks" in page.text


def _front_blocks(query: Query) -> list[str]:
    """Of every point of the front, every block in words."""
    return [words for choice in query.front("macs").choice for words in in_words(query.ratings.space, choice)]


def test_a_rule_that_cannot_be_names_its_file(run: Path, undrawn: None) -> None:
    known = read_json(run / "search.json")
    write_json(run / "search.json", {**known, "forbid": ["op99"]})
    with pytest.raises(
        ValueError, match=rf"{re.escape(str(run / 'search.json'))}: damaged \(.*operators run from 0 to"
    ):
        report_page([read_run(run)])


def test_a_block_counts_what_its_ratings_cannot_tell_apart(finished: Path, page: Page) -> None:
    table, winner = RatingTable.load(finished / "ratings.npz"), Architecture.load(finished / "architecture.json")
    costs = CostTable.load(finished / "costs.npz")
    for b, (ratings, errors) in enumerate(zip(table.losses(), table.standard_errors(), strict=True)):
        chosen = winner.candidates[b]
        near = np.sum(np.abs(ratings - ratings[chosen]) <= 1.96 * np.hypot(errors, errors[chosen])) - 1
        rank = np.sum(ratings < ratings[chosen]) + 1
        assert f"Chosen: rank {rank} of {len(ratings)} by rating." in page.text
        assert f"cannot tell apart from it: {near} (within" in page.text
        row = table.space.input_widths(b).index(winner.blocks[b][0].in_channels)
        expected = [
            str(rank),
            f"{ratings[chosen]:.5f}",
            f"{errors[chosen]:.5f}",
            f"{costs.costs['macs'][b][row, chosen]:,}",
        ]
        assert expected in [marked[:4] for marked in page.marked]


def test_a_difference_has_the_errors_of_both() -> None:
    # 1.96 x 0.02 = 0.039 < 0.05 < 1.96 x 0.02 x sqrt(2) = 0.055 < 0.06
    ratings, errors = np.array([1.0, 1.05, 1.06, 0.95]), np.full(4, 0.02)
    assert verdict(ratings, errors, 0).endswith(
        "from it: 2 (within 1.96 standard errors of the difference).</figcaption>"
    )
    assert "rank 2 of 4" in verdict(ratings, errors, 0)
    assert "not known" in verdict(ratings, np.full(4, np.nan), 0)
    assert "none is chosen" in verdict(ratings, errors, None)


def test_losses_cuts_and_identities_are_those_of_the_files(finished: Path, page: Page) -> None:
    for epoch in range(EPOCHS):
        assert [str(epoch + 1), *(f"{x:.5f}" for x in losses(epoch, 2))] in page.rows
    assert ["1", "blocks.2", "13", "8 × 8", "1,234,001", "16.1%"] in page.rows
    assert page.row("teacher weights, sha256")[1] == "5ha"
    assert page.row("training images, fingerprint")[1] == "data0"
    assert page.row("supernet identity")[1] == "1d"
    assert page.row("ratings: teacher_sha256")[1] == '"5ha"'
    assert page.row("train")[1:3] == ["abc123", "0.1"]
    assert page.row("ratings.npz")[1] == read_run(finished).sha256["ratings.npz"]


def test_settings_that_differ_from_their_defaults_are_marked(page: Page) -> None:
    marked = {row[0]: row[1:3] for row in page.marked}
    assert marked["train.epochs"] == ["2", "20"]
    assert page.row("train.weight_decay")[0] not in marked
    assert page.row("seed") == ["seed", "0", "0", "seed"]


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        (["teacher.json"], "dna-fast train"),
        (["supernet"], "dna-fast train"),
        (["ratings.npz"], "dna-fast rate"),
        (["search.json"], "dna-fast search"),
        (["architecture.json"], "dna-fast search"),
        (["models"], "dna-fast retrain"),
        (["costs.npz", "logs", "provenance.json", "splits.npz", "teacher_training.json"], None),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_what_is_not_there_is_said_with_the_command_that_makes_it(
    run: Path, undrawn: None, missing: list[str], command: str | None
) -> None:
    for name in missing:
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
    asked = re.findall(r"Make it with: (dna-fast \w+)", Page(report_page([read_run(run)])).text)
    assert set(asked) == ({command} if command else set())


def test_a_run_that_has_only_begun_has_a_page(run: Path, undrawn: None) -> None:
    for path in [*run.iterdir()]:
        if path.name != "config.yaml":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = Page(report_page([read_run(run)]))
    assert "This run is not finished: the supernet is not trained yet." in page.text
    assert page.row("train.epochs")[1] == "2"


def test_a_winner_of_a_later_search_is_not_taken_for_the_trained_one(run: Path, undrawn: None) -> None:
    facts = read_run(run)
    other = next(n.arch for n in facts.networks if n.arch.blocks != facts.winner.blocks)
    other.save(run / "architecture.json")
    shutil.rmtree(run / "models" / "largest")
    shutil.rmtree(run / "models" / "random_0")
    page = Page(report_page([read_run(run)]))
    assert "The network named “found” below is of an earlier search." in page.text
    assert "it is not retrained yet" in page.text


def test_several_runs_are_compared(finished: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "other", seed=1)
    page = Page(report_page([read_run(finished), read_run(tmp_path / "other")]))
    assert len(set(page.ids)) == len(page.ids)
    compared = [row for row in page.rows if row and row[0] in ("finished", "other") and len(row) == 9]
    assert [row[0] for row in compared] == ["finished", "other"]
    for row, directory in zip(compared, (finished, tmp_path / "other"), strict=True):
        best = read_json(directory / "search.json")["solutions"][0]
        assert row[1:4] == [f"{best['costs']['macs']:,}", f"{best['costs']['params']:,}", f"{best['loss']:.4f}"]
    assert page.row("key") == ["key", "finished", "other"]
    differing = page.rows[page.rows.index(["key", "finished", "other"]) + 1]
    assert differing == ["seed", "0", "1"]
    assert "front of finished" in page.text
    assert "front of other" in page.text


def test_a_network_trained_from_two_starts_is_drawn_once(run: Path) -> None:
    for name in ("found", "random_0"):
        write_network(run, f"{name}_inherited", Architecture.load(run / "models" / name / "architecture.json"), 70, 100)
    facts = read_run(run)
    query = facts.query()
    assert query is not None
    assert [mark.label.partition(":")[0] for mark in baseline_marks(facts, query)] == ["largest", "random_0"]


def test_equal_fronts_are_drawn_once(finished: Path, run: Path, undrawn: None) -> None:
    text = Page(report_page([read_run(finished), read_run(run)])).text
    assert "front of finished, run" in text
    assert "winner of run" in text


def test_runs_of_different_spaces_share_no_picture(finished: Path, tmp_path: Path, undrawn: None) -> None:
    config = write_run(tmp_path / "a").to_dict()
    config["space"]["name"] = "another"
    write_run(tmp_path / "other", config={"space": config["space"]})
    page = Page(report_page([read_run(finished), read_run(tmp_path / "other")]))
    assert "their ratings cannot share a picture" in page.text


def test_nothing_in_a_file_becomes_markup(tmp_path: Path) -> None:
    evil = '<script>alert("1")<img src=x> & id="y'
    run = tmp_path / "<script>alert(1)<b>"
    write_run(run, config={"name": evil})
    write_json(run / "teacher.json", read_json(run / "teacher.json") | {"source": evil})
    write_json(run / "provenance.json", {evil: {"command": [evil], "revision": evil}})
    write_network(run, "<i>found & more", Architecture.load(run / "architecture.json"), 50, 100)
    html = report_page([read_run(run)])
    page = Page(html)
    assert {"script", "img", "i"}.isdisjoint(tag for tag, _ in page.tags)
    assert len(set(page.ids)) == len(page.ids)
    assert f"{evil}; 7,654,321 macs" in page.text
    assert "<script>alert(1)<b>" in page.text
    assert page.row("<i>found & more")[5] == "50 of 100"


def test_equal_runs_give_equal_bytes_and_are_not_changed(finished: Path, run: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    copy = Path(shutil.copytree(finished, tmp_path / "elsewhere" / "run"))
    write_report([run], tmp_path / "a.html")
    write_report([copy], tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_front_needs_no_cost_table(run: Path, page: Page, undrawn: None) -> None:
    (run / "costs.npz").unlink()
    assert Page(report_page([read_run(run)])).row("largest") == page.row("largest")
    assert not (run / "costs.npz").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("teacher.json", "{}"),
        ("teacher.json", '{"source": 1, "weights_sha256": "", "macs": "x", "bn": "", "points": []}'),
        ("teacher_training.json", "[]"),
        ("search.json", '{"status": "optimal"}'),
        ("search.json", "not json"),
        (
            "search.json",
            '{"status": "", "metric": "x", "bounds": {}, "solutions": [], "smallest_feasible": {}, "gap": null}',
        ),
        ("architecture.json", "{}"),
        ("supernet/state.json", "[]"),
        ("models/found/training.json", '{"accuracy": {"correct": 1, "total": 0, "interval_95": [0, 1]}}'),
        ("models/found/architecture.json", "[1]"),
        ("ratings.npz", "PK"),
        ("costs.npz", ""),
        ("splits.npz", "PK"),
        ("provenance.json", '{"train": 3}'),
        ("config.yaml", "name: 3"),
    ],
)
def test_a_damaged_file_is_named(run: Path, name: str, text: str) -> None:
    (run / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(str(run / name))):
        read_run(run)


def test_a_score_outside_its_interval_is_damaged(run: Path) -> None:
    path = run / "models" / "found" / "training.json"
    known = read_json(path)
    known["accuracy"]["interval_95"] = [0.9, 0.95]
    write_json(path, known)
    with pytest.raises(ValueError, match=r"training\.json: damaged .*0\.8 in \[0\.9, 0\.95\]"):
        read_run(run)


def test_tables_of_another_space_are_refused(run: Path) -> None:
    cost_table(preset("digits")).save(run / "costs.npz")
    with pytest.raises(ValueError, match=r"costs\.npz: of space 'digits'"):
        read_run(run)


def test_wrong_directories_are_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a run directory"):
        write_report([tmp_path], tmp_path / "report.html")
    with pytest.raises(ValueError, match="several different ones"):
        write_report([finished, finished / ".." / "finished"], tmp_path / "report.html")
    with pytest.raises(ValueError, match="expected one run directory"):
        write_report([], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_half_a_row_of_a_log_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("time_s,step,loss\n1,10,0.5\n2,20,nan\n3,30,0.25\n4,4", encoding="utf-8")
    assert read_log(tmp_path / "log.csv", ("step", "loss")).tolist() == [[10, 0.5], [30, 0.25]]
    assert read_log(tmp_path / "log.csv", ("step", "other")).shape == (0, 2)
    assert read_log(tmp_path / "none.csv", ("step",)).shape == (0, 1)


@pytest.mark.parametrize("several", [False, True], ids=["one", "several"])
def test_the_command_writes_where_it_says(
    run: Path,
    undrawn: None,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    several: bool,
) -> None:
    from dna_fast import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dna-fast", "report", str(run), *([str(finished)] if several else [])])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    path = tmp_path / "report.html" if several else run / "report.html"
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert "report.html" in capsys.readouterr().out


def test_the_global_state_of_matplotlib_stays(finished: Path) -> None:
    before = dict(matplotlib.rcParams)
    report_page([read_run(finished)])
    assert dict(matplotlib.rcParams) == before


@pytest.mark.slow
def test_the_page_of_the_whole_dna_space_is_small(tmp_path: Path) -> None:
    write_run(tmp_path / "dna", config={"space": "dna", "train": {}, "data": {"kind": "folder", "root": str(tmp_path)}})
    write_report([tmp_path / "dna"], tmp_path / "report.html")
    facts = read_run(tmp_path / "dna")
    assert sum(facts.costs.space.num_candidates(b) for b in range(len(facts.costs.space.blocks))) == 23_046
    assert (tmp_path / "report.html").stat().st_size < 3_000_000
    Page((tmp_path / "report.html").read_text(encoding="utf-8"))
