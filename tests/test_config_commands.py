"""What `dna-fast config` says: where values come from, all that is wrong with a file, the reference page."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dna_fast import cli
from dna_fast.config import RunConfig, load_config
from dna_fast.config_check import problems
from dna_fast.config_reference import reference
from dna_fast.config_schema import unknown_key
from dna_fast.config_sources import described_overrides, find_config
from dna_fast.config_yaml import parse_yaml
from dna_fast.space import preset

ROOT = Path(__file__).resolve().parents[1]
MINIMAL = "name: small\nspace: digits\ndata: {kind: digits}\ntrain: {learning_rates: [0.002], epochs: 20}\n"
TIMM = MINIMAL + "teacher: {model: tf_efficientnet_b0, pretrained: false}\n"
FOLDER = TIMM.replace("{kind: digits}", "{kind: folder, root: images}")
KEYS = [dotted for dotted, _ in RunConfig.declared_keys()]

DnaFast = Callable[..., str]


@pytest.fixture
def dna_fast(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> DnaFast:
    """Runs the command line in this process; its standard output."""

    def run(*arguments: object, expect: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["dna-fast", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        assert (stop.value.code or 0) == expect, captured
        return captured.out

    return run


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(MINIMAL, encoding="utf-8")
    return path


# ---- show ------------------------------------------------------------------------------------------------------------

OVERRIDES = ("train.epochs=3", "search.max.macs=5M", "teacher.fit={epochs: 9}", "data.root=images")


@pytest.mark.parametrize("name", ["cifar10", "digits", "imagenet_b7"])
@pytest.mark.parametrize("options", [(), ("--changed",)], ids=["all", "changed"])
def test_what_is_shown_is_the_configuration(
    name: str, options: tuple[str, ...], dna_fast: DnaFast, tmp_path: Path
) -> None:
    overrides = OVERRIDES if name == "digits" else ("train.epochs=3", "data.root=images")
    given = [part for text in overrides for part in ("--set", text)]
    (tmp_path / "shown.yaml").write_text(dna_fast("config", "show", name, *given, *options), encoding="utf-8")
    assert load_config(tmp_path / "shown.yaml") == load_config(find_config(name), overrides)


def test_a_space_spelled_out_is_shown_as_one_that_can_be_read(small: Path, dna_fast: DnaFast, tmp_path: Path) -> None:
    (small.parent / "space.json").write_text(json.dumps(preset("digits").to_dict()), encoding="utf-8")
    small.write_text(MINIMAL.replace("space: digits", "space: space.json"), encoding="utf-8")
    (tmp_path / "shown.yaml").write_text(dna_fast("config", "show", small), encoding="utf-8")
    assert load_config(tmp_path / "shown.yaml") == load_config(small)


@pytest.mark.parametrize(
    "line",
    [
        "  epochs: 3  # --set; the file says 20",
        "  batch_size: 32  # --set; the default is 512",
        "  bn_group: 16  # --set; an earlier --set says 32",
        "  lr_decay: 0.9  # default",
        "  boundary: adapter  # file, as the default",
        "    macs: 5M  # --set; not set before",
        "  kind: digits  # file",
    ],
)
def test_every_value_has_its_source_behind_it(line: str, small: Path, dna_fast: DnaFast) -> None:
    small.write_text(MINIMAL + "supernet: {boundary: adapter}\n", encoding="utf-8")
    given = ["train.epochs=3", "train.batch_size=32", "train.bn_group=32", "train.bn_group=16", "search.max.macs=5M"]
    shown = dna_fast("config", "show", small, *(part for text in given for part in ("--set", text)))
    assert line in shown.splitlines()


def test_defaults_only_shows_what_nobody_has_set(small: Path, dna_fast: DnaFast) -> None:
    shown = parse_yaml(dna_fast("config", "show", small, "--defaults-only", "--set", "rate.mode=per_path"))
    assert "name" not in shown
    assert "epochs" not in shown["train"]
    assert "mode" not in shown["rate"]
    assert shown["rate"]["metric"] == "relative_l1"


def test_a_run_directory_is_shown_by_its_configuration(small: Path, dna_fast: DnaFast, tmp_path: Path) -> None:
    load_config(small).dump(tmp_path / "run" / "config.yaml")
    shown = json.loads(dna_fast("config", "show", tmp_path / "run", "--json", "--changed"))
    assert shown["train.learning_rates"]["value"] == [0.002, 0.002, 0.002]
    assert "train.lr_decay" not in shown


def test_sources_are_words_for_programs_too(small: Path, dna_fast: DnaFast) -> None:
    shown = json.loads(dna_fast("config", "show", small, "--json", "--set", "train.epochs=3"))
    sources = {key: shown[key]["source"] for key in ("train.epochs", "name", "train.lr_decay")}
    assert sources == {"train.epochs": "--set", "name": "file", "train.lr_decay": "default"}
    assert shown["train.epochs"]["value"] == 3


@pytest.mark.parametrize("command", ["train", "demo"])
def test_training_says_what_is_overridden(command: str, small: Path, dna_fast: DnaFast, tmp_path: Path) -> None:
    small.write_text(FOLDER, encoding="utf-8")  # whose images are not there, so that it ends soon
    config = [small] if command == "train" else ["--config", small]
    told = dna_fast(command, *config, "--out", tmp_path / "run", "--set", "train.epochs=3", expect=2)
    assert "train.epochs = 3 (--set; the file says 20)" in told.splitlines()


def test_overrides_are_told_with_what_they_replace(small: Path) -> None:
    given = ["train.epochs=3", "train.lr_decay=0.8", "train.lr_decay=0.7", "search.max.macs=5M"]
    assert described_overrides(small, given) == [
        "train.epochs = 3 (--set; the file says 20)",
        "train.lr_decay = 0.7 (--set; an earlier --set says 0.8)",
        "search.max.macs = 5M (--set; not set before)",
    ]


# ---- check -----------------------------------------------------------------------------------------------------------


def test_all_problems_of_a_file_are_told_at_once(small: Path) -> None:
    small.write_text(
        "name: 3\nspace: {name: a, choices: [], blocks: []}\nlabel_smoothing: 0.1\nrate: {images: 100, mode: fast}\n"
        "train: {epoch: 3, Batch-Size: 64, weight_decay: -1}\nretrain: {epochs: 4}\n",
        encoding="utf-8",
    )
    found = problems(small, ["teacher.bn=none"], quick=True)
    starts = [
        "label_smoothing: not a key here; did you mean retrain.label_smoothing?",
        "data: missing",
        "name: expected text, got 3",
        "override 'teacher.bn=none': teacher.bn: expected 'eval' or 'batch'",
        "train.epoch: unknown key; did you mean 'epochs'?",
        "train.Batch-Size: unknown key; did you mean 'batch_size'?",
        "train.weight_decay: expected >= 0, got -1",
        "rate.mode: expected 'trie' or 'per_path' or 'official', got 'fast'",
        "retrain.warmup_epochs: expected less than retrain.epochs = 4",
        "space: choices must list",
    ]
    assert len(found) == len(starts)
    for start in starts:
        assert any(line.startswith(start) for line in found), start


def test_rules_between_keys_are_told_where_the_keys_are_right(small: Path) -> None:
    assert problems(small, ["rate.images=100"], quick=True) == [
        "override 'rate.images=100': rate.images: expected a multiple of rate.batch_size = 64, got 100"
    ]


def test_check_prints_a_line_per_file_and_fails_if_one_does(small: Path, dna_fast: DnaFast, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(MINIMAL + "sead: 1\n", encoding="utf-8")
    assert dna_fast("config", "check", "--quick", small, "digits").splitlines() == [
        f"{small}: fine",
        f"{ROOT / 'configs' / 'digits.yaml'}: fine",
    ]
    lines = dna_fast("config", "check", "--quick", small, tmp_path / "bad.yaml", expect=2).splitlines()
    assert lines[0] == f"{small}: fine"
    assert lines[1].startswith(f"{tmp_path / 'bad.yaml'}: sead: unknown key; did you mean 'seed'?")


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        (FOLDER, (), "data.root: no such directory: "),
        (FOLDER, ("data.root=.",), "expected 10 class folders as space.frame.num_classes says, got 1"),
        (FOLDER, ("data.root=.",), "data.eval_dir: no such directory: "),
        (TIMM, ("teacher.checkpoint=none.pth",), "teacher.checkpoint: no such file: "),
        (
            TIMM,
            ("teacher.model=tf_efficientnet_bo",),
            "teacher.model: timm has no model 'tf_efficientnet_bo'; nearest: ",
        ),
        (TIMM, ("teacher.cuts=[a, b, c]",), "teacher.cuts: Teacher: no module 'a' in EfficientNet; nearest: "),
        (TIMM, ("teacher.cuts=[blocks.0, blocks.1, blocks.2]",), "teacher.cuts: a teacher whose cuts do not match"),
    ],
    ids=["no_root", "too_few_classes", "no_evaluation", "no_checkpoint", "no_such_model", "no_such_cut", "other_sizes"],
)
def test_check_looks_at_paths_and_teacher(
    text: str, overrides: tuple[str, ...], words: str, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train" / "only_class").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    small.write_text(text, encoding="utf-8")
    found = problems(small, overrides)
    assert any(words in line for line in found), found
    assert problems(small, overrides, quick=True) == []


def test_check_of_a_right_configuration_finds_nothing(small: Path) -> None:
    assert problems(ROOT / "configs" / "digits.yaml") == []


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "known", "words"),
    [
        ("EPOCHS", ["epochs", "lr"], "did you mean 'epochs'?"),
        ("batch-size", ["epochs", "batch_size"], "did you mean 'batch_size'?"),
        ("Boundary", ["epochs"], "did you mean supernet.boundary?"),
        ("ema_decay", ["epochs"], "did you mean teacher.fit.ema_decay or retrain.ema_decay?"),
        ("lr_decays", ["lr_decay"], "did you mean 'lr_decay'?"),
    ],
)
def test_nearest_key_is_found(name: str, known: list[str], words: str) -> None:
    assert words in unknown_key(name, known, KEYS)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digit", "did you mean 'digits'?"),
        ("Digits", "did you mean 'digits'?"),
        ("imagenet-b7", "did you mean 'imagenet_b7'?"),
    ],
)
def test_nearest_shipped_configuration_is_found(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("?", r"\?")):
        find_config(name)


# ---- reference -------------------------------------------------------------------------------------------------------


def test_reference_page_is_up_to_date(dna_fast: DnaFast) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == reference(), "write it anew: dna-fast config reference > docs/configuration.md"
    assert dna_fast("config", "reference") == page


@pytest.mark.parametrize("dotted", KEYS)
def test_reference_has_a_row_for_every_key(dotted: str) -> None:
    rows = [line for line in reference().splitlines() if line.startswith(f"| `{dotted}` |")]
    assert len(rows) == 1
    assert len(rows[0].replace("\\|", "").split(" | ")) == 7
