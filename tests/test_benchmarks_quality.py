"""What studies found, kept as a result and told on the page: every figure of the page is a figure of the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import pilot, quality
from dna_fast._files import write_json
from dna_fast.comparison import compare_all, write_comparison
from dna_fast.recipe import Accuracy
from dna_fast.stages import Compared
from dna_fast.study import Models, study

COUNTS = {"found": 180, "random_0": 170, "random_1": 175, "random_2": 172, "uniform_k3_e3": 165, "largest": 190}


def _compared(bonus: int) -> list[Compared]:
    head = Accuracy(100, 200) if bonus else None
    return [
        Compared(name, None, 5_000_000 + k, 60_000 + k, Accuracy(right + bonus, 200), 1.5, head)  # type: ignore[arg-type]
        for k, (name, right) in enumerate(COUNTS.items())
    ]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    (directory / "comparison").mkdir(parents=True)
    write_comparison(compare_all(_compared(0), _compared(5)), directory / "comparison")
    write_json(directory / "provenance.json", {"train": {"seconds": 12.5, "device": "cpu"}})
    errors = {"mean": 0.0789, "worst": 0.1234, "bias": 0.01}
    fit = {
        "offset_us": 1.0,
        "factor": 1.1,
        "networks": 20,
        "before": errors,
        "after": {**errors, "mean": 0.0456},
        "helps": True,
    }
    setting = {"batch": 1, "dtype": "float32", "implementation": "fused"}
    write_json(
        directory / "profile.json",
        {"device": {"name": "x"}, "layers": [1], "networks": [2], "fits": [{**setting, **fit}]},
    )
    return directory


def test_studies_of_a_run_are_kept_and_told(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "FOLDER", tmp_path)
    quality.main([str(run)])
    (path,) = tmp_path.glob("study-*.json")
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert kept["comparison"] == json.loads((run / "comparison" / "comparison.json").read_text(encoding="utf-8"))
    assert kept["seconds"] == {"train": 12.5}
    assert "layers" not in kept["profile"]
    page = "\n".join(quality.lines(tmp_path))
    assert "| found | found | 5.00 | 60,000 | 90.0 | 50.0 | 92.5 |" in page
    estimate = kept["comparison"]["findings"]["scratch: found minus random"]
    assert f"| scratch: found minus random | {100 * estimate['value']:.2f} [{100 * estimate['low']:.2f}, " in page
    assert "| fused, float32, batch 1 | 20 | 7.9 % | 12.3 % | 4.6 % | 12.3 % | taken |" in page


def test_a_directory_without_studies_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected one of assembled/assembled.json, .* found none; run: make study"):
        quality.record(tmp_path)


def test_a_page_before_anything_was_measured(tmp_path: Path) -> None:
    assert quality.lines(tmp_path) == ["Not measured yet: `make study`, `python -m benchmarks.pilot`."]


# ---- the pilot -------------------------------------------------------------------------------------------------------


def test_lists_hold_the_first_images_of_every_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pilot, "TRAIN_PER_CLASS", 2)
    for part, count in (("train", 3), ("test", 4)):
        for name in ("cat", "ant"):
            (tmp_path / part / name).mkdir(parents=True)
            for k in range(count):
                (tmp_path / part / name / f"{k}.jpg").touch()
    options = pilot.write_lists(tmp_path, tmp_path / "out")
    assert options[1] == f"data.train_list={tmp_path / 'out' / 'train_list.txt'}"
    train = (tmp_path / "out" / "train_list.txt").read_text(encoding="utf-8").splitlines()
    expected = [
        f"{tmp_path / 'train' / name / file} {label}"
        for label, name in enumerate(("ant", "cat"))
        for file in ("0.jpg", "1.jpg")
    ]
    assert train == expected
    assert len((tmp_path / "out" / "eval_list.txt").read_text(encoding="utf-8").splitlines()) == 8


def test_the_pilots_record_judges_every_variant(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(10.0) / 100 + 0.4
    names, macs = [f"study_{k}" for k in range(10)], rng.integers(*pilot.MACS, 10).astype(np.float64)
    scores = {"rating": rng.random(10), "macs": macs, "params": macs / 50, "entropy": rng.random(10)}
    lower = frozenset({"rating"})
    edges = tuple(float(edge) for edge in pilot.MACS)
    models = Models("ten", names, "top-1", truth, scores, "macs", macs, lower, ("one training run each",), edges)
    (tmp_path / "study").mkdir()
    write_json(tmp_path / "study" / "study.json", study(models, np.random.default_rng(1), resamples=200).to_dict())
    write_json(tmp_path / "teacher_training.json", {"accuracy": {"correct": 6, "total": 10}})
    ratings = {"rating": list(scores["rating"]), "perfect": list(-truth)}
    kept: dict[str, Any] = pilot.record(tmp_path, ratings, {"rating": 60.0})
    taus = {one["score"]: one["overall"]["kendall"]["value"] for one in kept["study"]["agreements"]}
    assert taus["perfect"] == pytest.approx(1.0)
    assert set(taus) == {"rating", "perfect", "macs", "params", "entropy"}
    page = "\n".join(quality._pilot(kept, "here"))
    assert f"| rating | as configured | {taus['rating']:.3f} [" in page
    assert "the teacher's 60.0 %" in page
    assert "Accuracies from 40.0 to 49.0 %" in page
