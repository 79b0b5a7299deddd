"""Configuration files: what is read, what is refused and in which words, what identifies a run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dna_fast.config import (
    ConfigError,
    DataConfig,
    FitConfig,
    RateConfig,
    RetrainConfig,
    RunConfig,
    SearchConfig,
    TeacherConfig,
    TrainConfig,
    load_config,
    parse_quantity,
    resolve_quantity,
    shipped_config,
)
from dna_fast.config_yaml import parse_yaml, to_yaml
from dna_fast.space import preset

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
ARCH = {"arch_def": [["ds_r1_k3_s1_c8"]], "stem_size": 8, "num_features": 8}
WITH_FIT = (
    "teacher: {pretrained: false, arch: {arch_def: [[ds_r1_k3_s1_c8]], stem_size: 8, num_features: 8}, fit: {}}\n"
)
MINIMAL = "name: small\nspace: digits\ndata: {kind: digits}\ntrain: {learning_rates: [0.002]}\n"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(MINIMAL, encoding="utf-8")
    return path


def message(path: Path, *overrides: str) -> str:
    with pytest.raises(ValueError) as caught:
        load_config(path, overrides)
    return str(caught.value)


# ---- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar10", "digits", "imagenet_b7"])
def test_shipped_configuration_survives_dump(name: str, tmp_path: Path) -> None:
    config = load_config(CONFIGS / f"{name}.yaml")
    config.dump(tmp_path / "config.yaml")
    again = load_config(tmp_path / "config.yaml")
    assert again == config
    assert again.identity() == config.identity()


def test_imagenet_recipe_is_the_default() -> None:
    recipe = load_config(CONFIGS / "imagenet_b7.yaml")
    assert recipe.train == TrainConfig(amp_dtype="bfloat16")
    assert recipe.rate == RateConfig()
    assert recipe.search_space() == preset("dna")
    assert recipe.teacher == TeacherConfig()


def test_imagenet_retraining_is_published_but_for_a_batch_of_one_gpu() -> None:
    recipe, published = load_config(CONFIGS / "imagenet_b7.yaml").retrain, RetrainConfig()
    assert recipe.batch_size <= 512
    assert recipe.lr == pytest.approx(published.lr * recipe.batch_size / published.batch_size, rel=1e-12)
    assert recipe == replace(published, batch_size=recipe.batch_size, lr=recipe.lr, amp_dtype="bfloat16")


@pytest.mark.parametrize("name", ["cifar10", "digits", "imagenet_b7"])
def test_shipped_configuration_mentions_every_key(name: str) -> None:
    given = parse_yaml((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    # What the other value of data.kind, schedule or arch uses.
    lists = {"data.train_list", "data.eval_list"}
    own_data = {"data.eval_dir", "data.index_dir"}
    unused = {
        "cifar10": lists | {"teacher.model", "retrain.decay_epochs", "retrain.decay_rate"},
        "digits": lists | own_data | {"teacher.model", "retrain.decay_epochs", "retrain.decay_rate"},
        "imagenet_b7": lists,
    }
    missing = []
    for dotted, _ in RunConfig.declared_keys():
        at: Any = given
        for part in dotted.split("."):
            at = at.get(part, missing) if isinstance(at, Mapping) else None
        if at is missing and dotted not in unused.get(name, ()):
            raise AssertionError(f"{name}.yaml does not mention {dotted}")


def test_retraining_has_the_fields_of_a_recipe_under_its_names() -> None:
    from dna_fast.recipe import Recipe

    shared = {f.name for f in fields(RetrainConfig)} - {"random_baselines", "largest", "head_epochs"}
    assert shared <= {f.name for f in fields(Recipe)}
    assert "amp_dtype" in shared


def test_one_learning_rate_serves_every_block(small: Path) -> None:
    assert load_config(small).train.learning_rates == (0.002, 0.002, 0.002)


def test_exponent_without_point_is_a_number(small: Path) -> None:
    assert load_config(small, ["train.weight_decay=1e-5"]).train.weight_decay == 1e-5


def test_overrides_apply_in_order_and_make_sections(small: Path) -> None:
    small.write_text(MINIMAL + WITH_FIT.replace(", fit: {}", ""), encoding="utf-8")
    config = load_config(small, ["train.epochs=3", "train.epochs=4", "search.max.macs=5M", "teacher.fit.epochs=9"])
    assert config.train.epochs == 4
    assert config.search.max == {"macs": "5M"}
    assert config.teacher.fit is not None
    assert config.teacher.fit.epochs == 9


def test_paths_are_relative_to_the_file_or_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    path = tmp_path / "there" / "run.yaml"
    path.write_text(MINIMAL.replace("{kind: digits}", "{kind: folder, root: images}"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    config = load_config(path, ["teacher.checkpoint=weights.safetensors"])
    assert config.data.root == str(tmp_path / "there" / "images")
    assert config.teacher.checkpoint == str(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_space_file_becomes_part_of_the_configuration(suffix: str, small: Path) -> None:
    space = replace(preset("digits"), name="mine")
    (small.parent / f"space.{suffix}").write_text(to_yaml(space.to_dict()) if suffix == "yaml" else json_of(space))
    small.write_text(MINIMAL.replace("space: digits", f"space: space.{suffix}"), encoding="utf-8")
    config = load_config(small)
    assert config.search_space() == space
    config.dump(small.parent / "elsewhere" / "config.yaml")
    assert load_config(small.parent / "elsewhere" / "config.yaml") == config


def json_of(space: Any) -> str:
    import json

    return json.dumps(space.to_dict())


def test_configuration_is_frozen(small: Path) -> None:
    with pytest.raises(FrozenInstanceError):
        load_config(small).train.epochs = 3  # type: ignore[misc]


# ---- refusing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epoch=3", ["train.epoch:", "unknown key", "'epochs'"]),
        ("trian.epochs=3", ["trian:", "unknown key", "'train'"]),
        ("label_smoothing=0.1", ["label_smoothing:", "did you mean retrain.label_smoothing"]),
        ("train.epochs=many", ["train.epochs:", "expected a whole number", "'many'"]),
        ("train.epochs=2.0", ["train.epochs:", "expected a whole number", "2.0"]),
        ("train.epochs=true", ["train.epochs:", "expected a whole number", "True"]),
        ("train.epochs=0", ["train.epochs:", "expected > 0", "0"]),
        ("train.weight_decay=.nan", ["train.weight_decay:", "expected a number"]),
        ("train.amp_dtype=float16", ["train.amp_dtype:", "'bfloat16' or null", "'float16'"]),
        ("train.learning_rates=[0.1, x]", ["train.learning_rates[1]:", "expected a number", "'x'"]),
        ("train.learning_rates=[0.1, 0.2]", ["train.learning_rates:", "1 or 3 numbers", "2"]),
        ("train.learning_rates=[-1]", ["train.learning_rates:", "expected > 0", "-1"]),
        ("train.batch_size=100", ["train.batch_size:", "multiple of train.bn_group = 64", "100"]),
        ("train=3", ["train:", "expected a mapping", "3"]),
        ("rate.images=100", ["rate.images:", "multiple of rate.batch_size = 64", "100"]),
        ("device=gpu", ["device:", "'auto' or 'cpu' or 'cuda'", "'gpu'"]),
        ("retrain.amp_dtype=float16", ["retrain.amp_dtype:", "'bfloat16' or null", "'float16'"]),
        ("retrain.warmup_epochs=500", ["retrain.warmup_epochs:", "less than retrain.epochs = 500", "500.0"]),
        (
            "retrain={epochs: 3}",
            ["retrain.warmup_epochs:", "less than retrain.epochs = 3", "5.0"],
        ),
        ("teacher.fit={epochs: 2}", ["teacher.fit.warmup_epochs:", "less than teacher.fit.epochs = 2", "2.0"]),
        ("teacher.fit={}", ["teacher.fit:", "trains a custom arch", "tf_efficientnet_b7.aa_in1k"]),
        ("rate.mode=fast", ["rate.mode:", "'trie' or 'per_path' or 'official'", "'fast'"]),
        ("rate.max_memory=4GB", ["rate.max_memory:", "suffix k, M or G", "'4GB'"]),
        ("rate.max_memory=0", ["rate.max_memory:", "> 0 bytes", "0"]),
        ("space=dnaa", ["space:", "dna, digits", "'dnaa'"]),
        ("space=nowhere.json", ["space:", "cannot read", "nowhere.json"]),
        ("space={name: a, choices: [], blocks: []}", ["space:", "choices must list"]),
        ("space.frame.resolution=32", ["space is 'digits'", "no key 'frame'"]),
        ("search.max.mac=3", ["search.max.mac:", "'macs'"]),
        ("search.max.macs=460m", ["search.max.macs:", "suffix k, M or G", "'460m'"]),
        ("search.max.params=teacher/3", ["search.max.params:", "teacher"]),
        ("teacher.cuts=[a]", ["teacher.cuts:", "expected 3 names", "1"]),
        ("teacher.arch={}", ["teacher.arch.arch_def:", "missing"]),
        (
            "teacher.arch={arch_def: 3, stem_size: 8, num_features: 8}",
            ["teacher.arch.arch_def:", "a list per stage", "3"],
        ),
        ("teacher.arch={arch_def: [ds_r1], stem_size: 8, num_features: 8}", ["teacher.arch.arch_def:", "'ds_r1'"]),
        ("teacher.arch={stem: 3}", ["teacher.arch.stem:", "'stem_size'"]),
        ("teacher.fit.min_accuracy=90", ["teacher.fit.min_accuracy:", "between 0 and 1", "90"]),
        ("train.epochs", ["expected 'dotted.key=value'"]),
        ("train..epochs=1", ["expected 'dotted.key=value'"]),
        ("train.epochs=[", ["not valid YAML"]),
    ],
)
def test_invalid_override_is_named(override: str, words: list[str], small: Path) -> None:
    found = message(small, override)
    assert found.startswith(f"override {override!r}: ")
    for word in words:
        assert word in found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (MINIMAL + "train: {epochs: 3}\n", ["'train' is given twice", "line 5"]),
        (MINIMAL + "seed: [\n", ["not valid YAML", "line"]),
        (MINIMAL + "7: 3\n", ["keys must be text"]),
        ("- a\n", ["expected a mapping with name, seed, device, space"]),
        ("", ["expected a mapping", "None"]),
        ("name: x\nspace: digits\n", ["data:", "missing"]),
        ("space: digits\ndata: {kind: digits}\n", ["name:", "missing"]),
        (MINIMAL.replace("kind: digits", "kind: folder"), ["data.root:", "train/ and val/", "null"]),
        (MINIMAL.replace("kind: digits", "kind: list, train_list: a.txt"), ["data.eval_list:", "label", "null"]),
        (MINIMAL.replace("kind: digits", "kind: digits, on_bad: ignore"), ["data.on_bad:", "'error' or 'skip'"]),
        (MINIMAL + "teacher: {arch: {arch_def: [[a]], stem_size: 8, num_features: 8}}\n", ["teacher.pretrained:"]),
    ],
)
def test_invalid_file_is_named(text: str, words: list[str], small: Path) -> None:
    small.write_text(text, encoding="utf-8")
    found = message(small)
    assert found.startswith(f"{small}: ")
    for word in words:
        assert word in found


def test_checkpoint_beside_an_arch_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"teacher\.checkpoint: is read for a timm model only"):
        TeacherConfig(pretrained=False, arch=ARCH, checkpoint="weights.safetensors")


def test_fit_without_an_arch_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"teacher\.fit: trains a custom arch, and none is given"):
        TeacherConfig(fit=FitConfig())


def test_arch_alone_is_a_random_teacher() -> None:
    assert TeacherConfig(pretrained=False, arch=ARCH).fit is None


def test_warmup_must_end_before_training_does() -> None:
    assert FitConfig(epochs=2, warmup_epochs=1.5).warmup_epochs == 1.5
    assert RetrainConfig(epochs=1, warmup_epochs=0).epochs == 1
    for section in (FitConfig, RetrainConfig):
        with pytest.raises(ConfigError, match=rf"{section.section}\.warmup_epochs: expected less than .*epochs = 2"):
            section(epochs=2, warmup_epochs=2)


def test_fault_of_the_file_is_not_blamed_on_an_override(small: Path) -> None:
    small.write_text(MINIMAL + "sead: 1\n", encoding="utf-8")
    assert message(small, "train.epochs=3").startswith(f"{small}: sead: ")


def test_missing_file_is_named_and_examples_are_shown(tmp_path: Path) -> None:
    found = message(tmp_path / "nowhere.yaml")
    assert "nowhere.yaml: no such file" in found
    assert str(CONFIGS / "digits.yaml") in found


def test_sections_made_in_code_are_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"train\.batch_size: expected a multiple"):
        TrainConfig(batch_size=100)
    with pytest.raises(ConfigError, match=r"search\.min\.macs"):
        SearchConfig(min={"macs": -1})
    with pytest.raises(ConfigError, match=r"train\.learning_rates: expected 1 or 3"):
        RunConfig(name="a", space="digits", data=DataConfig(kind="digits"))


# ---- quantities ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("460M", 460_000_000),
        ("460.5M", 460_500_000),
        ("0.001k", 1),
        ("1.2G", 1_200_000_000),
        ("900", 900),
        ("460000", 460_000),
        (" 5 ", 5),
        (7, 7),
        (0, 0),
        ("9007199254740993", 2**53 + 1),
    ],
)
def test_quantity_is_exact(text: int | str, value: int) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize("text", ["460m", "M", "", "-3", "1e6", "460 M", "4,6M", "1.0005k", "0.5", -1, True, "٣"])
def test_quantity_that_is_none_is_refused(text: int | str) -> None:
    with pytest.raises(ValueError, match=r"expected a (whole )?number"):
        parse_quantity(text)


def test_share_of_the_teacher_is_rounded_down() -> None:
    assert resolve_quantity("teacher/3", teacher_macs=100) == 33
    assert resolve_quantity("teacher / 2.5", teacher_macs=100) == 40
    assert resolve_quantity("5k", teacher_macs=100) == 5000
    with pytest.raises(ValueError, match="needs the teacher's macs"):
        resolve_quantity("teacher/3")
    with pytest.raises(ValueError, match="divisor > 0"):
        resolve_quantity("teacher/0", teacher_macs=100)


# ---- identity --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "train.epochs=3",
        "train.bn_group=32",
        "rate.images=128",
        "supernet.boundary=wide",
        "teacher.fit.lr=0.1",
    ],
)
def test_identity_follows_what_determines_the_weights(override: str, small: Path) -> None:
    small.write_text(MINIMAL + WITH_FIT, encoding="utf-8")
    assert load_config(small, [override]).identity() != load_config(small).identity()


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "device=cpu",
        "data.threads=7",
        "data.prefetch=5",
        "data.on_bad=skip",
        "data.index_dir=elsewhere",
        "data.root=elsewhere",
        "teacher.checkpoint=elsewhere.safetensors",
        "train.checkpoint_minutes=1",
        "train.keep_checkpoints=5",
        "train.learning_rates=[0.002, 0.002, 0.002]",
        "rate.metric=mse",
        "rate.max_memory=4G",
        "search.top=1",
        "retrain.epochs=7",
        "retrain.amp_dtype=bfloat16",
        "retrain.rand_augment=2",
        "retrain.mixup=0.2",
    ],
)
def test_identity_ignores_what_does_not(override: str, small: Path) -> None:
    assert load_config(small, [override]).identity() == load_config(small).identity()


def test_identity_knows_a_space_by_its_content(small: Path) -> None:
    spelled = replace(load_config(small), space=preset("digits").to_dict())
    assert spelled.identity() == load_config(small).identity()


# ---- shipping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar10", "digits", "imagenet_b7"])
def test_checkout_ships_its_configurations(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped_config(name) == CONFIGS / f"{name}.yaml"


@pytest.mark.parametrize("name", ["digit", "", "digits.yaml", "../setup"])
def test_configuration_that_is_not_shipped_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(ValueError, match=r"shipped configuration \(cifar10, digits, imagenet_b7\), got "):
        shipped_config(name)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a build of the Python part needs, elsewhere: building leaves files beside setup.py."""
    pytest.importorskip("setuptools", reason="building needs setuptools")
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("dna_fast", "configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return copy


def python(*arguments: str, cwd: Path) -> str:
    """Standard output of this interpreter, with `cwd` as the only place that packages of ours are found in."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_built_package_finds_its_own_copy(checkout: Path, tmp_path: Path) -> None:
    python("setup.py", "-q", "build_py", "--build-lib", str(tmp_path / "lib"), cwd=checkout)
    found = python("-c", "from dna_fast.config import shipped_config as s; print(s('digits'))", cwd=tmp_path / "lib")
    assert Path(found.strip()) == tmp_path / "lib" / "dna_fast" / "configs" / "digits.yaml"
    for source in CONFIGS.glob("*.yaml"):
        assert (tmp_path / "lib" / "dna_fast" / "configs" / source.name).read_bytes() == source.read_bytes()


def test_editable_install_links_to_the_only_copy(checkout: Path) -> None:
    listing = """
import sys, runpy, setuptools
made = []
setuptools.setup = lambda **given: made.append(setuptools.Distribution({**given, "packages": ["dna_fast"], "script_name": "setup.py"}))
runpy.run_path("setup.py")
command = made[0].get_command_obj("build_py")
command.editable_mode = True
command.ensure_finalized()
command.run()
mapping = command.get_output_mapping()
assert set(command.get_outputs()) == set(mapping)
print(*[source for source in mapping.values() if source.endswith(".yaml")], sep="\\n")
"""
    assert python("-c", listing, cwd=checkout).split() == [
        f"configs/{name}.yaml" for name in ("cifar10", "digits", "imagenet_b7")
    ]
    assert not (checkout / "dna_fast" / "configs").exists()


def check_python() -> str:
    """The Makefile's check of the interpreter that it makes an environment with."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return text.partition("define CHECK_PYTHON\n")[2].partition("endef")[0]


def test_python_without_headers_is_refused_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ensurepip", "venv"):  # whether this machine has them is another question
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(SystemExit, match=r"C headers, got no .*Python\.h .*apt install python3-dev"):
        exec(check_python(), {})
    (tmp_path / "Python.h").touch()
    exec(check_python(), {})


# ---- documentation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dotted", "field"), RunConfig.declared_keys(), ids=lambda v: v if isinstance(v, str) else "")
def test_every_key_is_documented(dotted: str, field: Any) -> None:
    assert field.metadata["doc"].endswith(".")
    if field.type in ("int", "float", "tuple[float, ...]"):
        assert field.metadata["unit"], f"{dotted} is a number without a unit"


def test_declared_keys_include_nested_sections() -> None:
    keys = [dotted for dotted, _ in RunConfig.declared_keys()]
    assert {"seed", "teacher.fit.epochs", "train.learning_rates", "retrain.largest"} <= set(keys)
    assert len(keys) == len(set(keys))
    assert "fit" in get_type_hints(TeacherConfig)


# ---- YAML ------------------------------------------------------------------------------------------------------------

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(plain)
def test_yaml_survives_a_round_trip(data: Any) -> None:
    assert parse_yaml(to_yaml(data)) == data


@pytest.mark.parametrize("text", ["1e-4", "1E5", "+3e2", "null", "true", "2026-01-01"])
def test_text_that_looks_like_something_else_stays_text(text: str) -> None:
    assert parse_yaml(to_yaml({"name": text})) == {"name": text}
