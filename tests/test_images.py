"""The images of a run: folders and lists, what is left out, and that a later start opens no file again."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("nvidia.dali", reason="needs DALI")
pytest.importorskip("timm", reason="needs timm")

from PIL import Image
from small_run import CONFIG

from dna_fast import images as images_module
from dna_fast.config import RunConfig
from dna_fast.data import DataError
from dna_fast.data import survey as survey_module
from dna_fast.data.tuning import Settings
from dna_fast.images import RunImages
from dna_fast.recipe import Recipe


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """train and val of two classes, 80 and 4 images of each."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 80), ("val", 4)):
        for name in ("cat", "dog"):
            place = tmp_path / "images" / part / name
            place.mkdir(parents=True)
            for k in range(count):
                Image.fromarray(rng.integers(0, 256, (12, 15, 3), np.uint8)).save(place / f"{k:02}.jpg")
    return tmp_path / "images"


def config(**data: Any) -> RunConfig:
    mapping = copy.deepcopy(CONFIG)
    mapping["data"] = data
    mapping["space"]["frame"]["num_classes"] = 2
    mapping["rate"] = {"images": 64, "calibration_images": 32}
    return RunConfig.from_mapping(mapping)


def test_a_later_start_opens_no_file_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = RunImages(tmp_path / "run", config(kind="folder", root=str(folder)))
    monkeypatch.setattr(survey_module, "read_header", None)  # opening any image would fail now
    again = RunImages(tmp_path / "run", config(kind="folder", root=str(folder)))
    assert again.train.fingerprint() == first.train.fingerprint()
    assert len(list((tmp_path / "run" / "images").iterdir())) == 2


def test_damaged_images_stop_a_run_or_are_left_out(folder: Path, tmp_path: Path) -> None:
    (folder / "train" / "dog" / "07.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"dog/07\.jpg \(the file is empty\).*data\.on_bad: skip"):
        RunImages(tmp_path / "run", config(kind="folder", root=str(folder)))
    images = RunImages(tmp_path / "run", config(kind="folder", root=str(folder), on_bad="skip"))
    assert (len(images.train), images.train.skipped) == (159, 1)
    assert images.loader(images.train, 8, training=True)._casualties.on_bad == "skip"


def test_lists_give_the_images_of_the_folder(folder: Path, tmp_path: Path) -> None:
    for part in ("train", "val"):
        paths = sorted((folder / part).rglob("*.jpg"))
        lines = [f"{path.relative_to(folder)} {path.parent.name}" for path in paths]
        (tmp_path / f"{part}.txt").write_text("\n".join(lines))
    listed = config(
        kind="list",
        root=str(folder),
        train_list=str(tmp_path / "train.txt"),
        eval_list=str(tmp_path / "val.txt"),
        index_dir=str(tmp_path / "kept"),
    )
    images = RunImages(tmp_path / "listed", listed)
    assert images.train.classes == images.evaluation.classes == ("cat", "dog")
    assert images.train.path(0) == str(folder / "train" / "cat" / "00.jpg")
    assert (len(images.train), len(images.evaluation)) == (160, 8)
    assert len(list((tmp_path / "kept").iterdir())) == 2
    (batch,) = images.loader(images.evaluation, 8, training=False).epoch(0)
    assert batch.labels.tolist() == [0] * 4 + [1] * 4


def test_images_for_a_network_of_ones_own_are_normalised_as_timm_does(folder: Path, tmp_path: Path) -> None:
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    images = RunImages(tmp_path / "run", config(kind="folder", root=str(folder)))  # the small run's teacher is an arch
    assert images.statistics["mean"] == IMAGENET_DEFAULT_MEAN
    assert images.statistics["std"] == IMAGENET_DEFAULT_STD


def test_settings_of_a_small_set_are_not_measured(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images_module, "tune", None)
    images = RunImages(tmp_path / "run", config(kind="folder", root=str(folder)))
    assert images.settings == Settings()
    images = RunImages(tmp_path / "run", config(kind="folder", root=str(folder), threads=3))
    assert images.settings == Settings(threads=3)


def test_settings_of_a_large_set_are_measured_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def tune(make: Any, **given: Any) -> Settings:
        calls.append((make(5, 3)._threads, given))
        return Settings(5, 3, 99.0)

    monkeypatch.setattr(images_module, "LEAST_IMAGES", 100)
    monkeypatch.setattr(images_module, "tune", tune)
    images = RunImages(tmp_path / "run", config(kind="folder", root=str(folder), prefetch=3))
    for _ in range(2):
        loader = images.loader(images.train, 8, training=True)
        assert (loader._threads, loader._prefetch) == (5, 3)
    assert calls == [(5, {"threads": None, "prefetch": 3})]
    both = RunImages(tmp_path / "run", config(kind="folder", root=str(folder), prefetch=3, threads=2))
    assert both.settings == Settings(2, 3)
    assert len(calls) == 1


def test_a_recipe_changes_how_training_images_are_augmented(folder: Path, tmp_path: Path) -> None:
    images = RunImages(tmp_path / "run", config(kind="folder", root=str(folder)))
    own = images.loader(images.train, 8, training=True).transform
    recipe = Recipe(epochs=1, batch_size=8, lr=1.0, rand_augment=2, rand_magnitude=7.0, erase_prob=0.25)
    loader = images.loader(images.train, 8, training=True, augmentation=recipe.augmentation())
    assert loader.transform == replace(own, rand_augment=2, rand_magnitude=7.0, erase_prob=0.25)
    plain = Recipe(epochs=1, batch_size=8, lr=1.0)
    assert images.loader(images.train, 8, training=True, augmentation=plain.augmentation()).transform == own
