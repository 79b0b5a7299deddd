"""What was measured beside a run, in its page: the numbers of the files, and nothing where there are none."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="reports need the report extra")
pytest.importorskip("timm", reason="made-up runs are written by the stages' own writers")

from report_run import write_run
from test_comparison import HEIRS, SCRATCH
from test_report_page import Page
from test_study import some_models

from dna_fast import report_charts, report_measured_charts
from dna_fast._files import read_json, write_json
from dna_fast.architecture import Architecture
from dna_fast.assembled_study import AssembledNetwork, AssembledStudy
from dna_fast.comparison import compare_all, write_comparison
from dna_fast.profile_layers import Setting, space_layers
from dna_fast.profile_table import Network, Profile, Timing
from dna_fast.report_facts import read_run
from dna_fast.report_html import Html
from dna_fast.report_page import report_page
from dna_fast.study import study
from dna_fast.study_report import write_study
from dna_fast.study_statistics import Estimate

FILES = {
    "How well ratings rank": "study/study.json",
    "Sums of ratings and whole networks": "assembled/assembled.json",
    "The found network against chance": "comparison/comparison.json",
    "Latency on the device": "profile.json",
}
SETTING = Setting(1, "float32", "torch")
EVIL = "<script>alert('1')</script>&"


def write_measured(run: Path, title: str = "toy") -> None:
    """All four files, by the writers of the commands."""
    for name in ("study", "comparison"):
        (run / name).mkdir()
    models = some_models(24, title=title, lower_is_better=frozenset({"noise"}))
    write_study(study(models, np.random.default_rng(0), resamples=200), run / "study")
    write_comparison(compare_all([replace(SCRATCH[0], name=title), *SCRATCH[1:]], HEIRS), run / "comparison")
    write_json(run / "assembled" / "assembled.json", assembled(title).to_dict())
    space = read_run(run).costs.space
    profile = Profile({"processor": title})
    for i, key in enumerate(space_layers(space)):
        profile.layers[key, SETTING] = Timing([10.0 + i])
    rng = np.random.default_rng(1)
    for _ in range(6):
        choice = tuple(int(rng.integers(space.num_candidates(b))) for b in range(len(space.blocks)))
        summed = profile.summed_us(Architecture.from_space(space, choice), SETTING)
        profile.networks[Network(space.sha256, choice), SETTING] = Timing([50 + 1.25 * summed])
    profile.save(run / "profile.json", [space])


def assembled(verdict: str) -> AssembledStudy:
    roles = ["best", *["fit"] * 4, *["held out"] * 4, "corrected"]
    networks = [AssembledNetwork(role, (i, 0), 1000 + i, 1 + i / 10, 1 + i / 9, 0.5) for i, role in enumerate(roles)]
    tau, unknown = Estimate(0.512, 0.123, 0.789), Estimate(None, why="1 models, expected at least 3")
    held_out = {"rating": tau, "corrected": Estimate(0.25), "difference": Estimate(-0.262, -0.5, 0.1)}
    told = {"taken": False, "why": "no", "error": 1.0, "plain_error": 0.9, "terms": []}
    return AssembledStudy(tuple(networks), {"sampled": tau, "best": unknown}, held_out, told, None, verdict)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "measured"
    write_run(run)
    write_measured(run)
    return run


@pytest.fixture(scope="module")
def page(measured: Path) -> Page:
    return Page(report_page([read_run(measured)]))


@pytest.fixture
def run(measured: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(measured, tmp_path / "run"))


def words(estimate: dict[str, float | None], scale: float = 1, digits: int = 3) -> str:
    value, low, high = (None if x is None else f"{scale * x:.{digits}f}" for x in list(estimate.values())[:3])
    return "–" if value is None else value if low is None else f"{value} [{low}, {high}]"


def test_ids_are_unique_and_links_lead_somewhere(page: Page) -> None:
    assert len(set(page.ids)) == len(page.ids)
    assert {a["href"][1:] for _, a in page.tags if a.get("href", "").startswith("#")} <= set(page.ids)
    assert {"study", "assembled", "compared", "device"} <= set(page.ids)


def test_a_study_has_the_figures_of_its_file(measured: Path, page: Page) -> None:
    known = read_json(measured / "study" / "study.json")
    for a in known["agreements"]:
        less = " (less is better)" if a["score"] == "noise" else ""
        figures = [words(a["overall"][c]) for c in ("kendall", "spearman", "pearson")]
        assert [a["score"] + less, *figures, words(a["within"])] in page.rows
    for c in known["comparisons"]:
        assert page.row(f"{c['first']} − {c['second']}")[1:3] == [words(c["overall"]), words(c["within"])]


def test_assembled_networks_have_the_figures_of_their_file(page: Page) -> None:
    assert page.row("sampled networks, summed ratings")[1] == "0.512 [0.123, 0.789]"
    assert page.row("the search's best, summed ratings")[1:] == ["–", "1 models, expected at least 3"]
    assert page.row("held out, corrected")[1] == "0.250"
    assert "Correction not taken: " in page.text


def test_a_comparison_has_the_figures_of_its_file(measured: Path, page: Page) -> None:
    known = read_json(measured / "comparison" / "comparison.json")
    assert known["findings"]
    for name, estimate in known["findings"].items():
        assert page.row(name)[1] == words(estimate, 100, 2)
    cells = page.row("uniform_e2k3")
    low, high = known["networks"][9]["scratch"]["interval_95"]
    assert cells[1:5] == ["uniform", "1,000,000", "5,000", f"85.5 % [{100 * low:.1f}, {100 * high:.1f}]"]


def test_a_device_has_its_errors_before_and_after(measured: Path, page: Page) -> None:
    fit = Profile.load(measured / "profile.json").fit(read_run(measured).costs.space, SETTING)
    assert fit is not None
    assert fit.helps
    for row, e in (("sums over layers", fit.before), ("corrected, left out of the fit", fit.after)):
        assert page.row(row)[1:] == [f"{100 * x:.1f} %" for x in (e.mean, e.worst, e.bias)]
    assert "Correction: 50 µs + 1.250 × sum; used." in page.text


@pytest.mark.parametrize(("title", "file"), FILES.items(), ids=list(FILES.values()))
@pytest.mark.parametrize("damage", [None, "{", "[]", '{"format": "other"}'], ids=["gone", "cut", "list", "foreign"])
def test_missing_and_damaged_files_cost_one_section(
    run: Path, monkeypatch: pytest.MonkeyPatch, title: str, file: str, damage: str | None
) -> None:
    for module in (report_charts, report_measured_charts):  # pictures take most of a page's time
        monkeypatch.setattr(module, "pictures", lambda *given, **sizes: Html("<svg></svg>"))
    monkeypatch.setattr(report_charts, "picture", lambda *given, **sizes: Html("<svg></svg>"))
    (run / file).unlink() if damage is None else (run / file).write_text(damage)
    text = Page(report_page([read_run(run)])).text
    assert (title in text) is (damage is not None)
    assert (f"{file} is damaged" in text) is (damage is not None)
    assert all(other in text for other in FILES if other != title)


def test_nothing_in_a_measurement_becomes_markup(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    write_measured(tmp_path / "run", EVIL)
    page = Page(report_page([read_run(tmp_path / "run")]))
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(EVIL) >= 4
