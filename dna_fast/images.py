"""The images of a run: where they are, which of them are held out, and the loaders over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dna_fast._files import written_aside
from dna_fast.config import RunConfig
from dna_fast.data import (
    DaliLoader,
    EvalTransform,
    ImageIndex,
    TrainTransform,
    class_balanced_split,
    digits_transforms,
    write_digits,
)
from dna_fast.data.survey import store_path
from dna_fast.data.tuning import LEAST_IMAGES, Settings, tune

if TYPE_CHECKING:
    from dna_fast.data.transforms import Transform
    from dna_fast.recipe import Recipe

EVAL_IMAGES = 256  # per batch at most: larger ones judge no faster, and whole batches are what ranks share out


class RunImages:
    """Scans (and for the embedded data set writes) a run's images and splits them; the split is kept in `splits.npz`.

    Args:
        directory: of the run.
        config: its configuration.

    Attributes:
        train, evaluation: all training images, and those that only judge.
        splits: rating, calibration, rest -> indices into `train`.

    Raises:
        ValueError: a wrong structure, classes that differ between the two or from the space's, images other than those the
            run began with.
        DataError: an image that cannot be read; it is named.
    """

    def __init__(self, directory: Path, config: RunConfig) -> None:
        self.directory, self.config = directory, config
        self.frame = config.search_space().frame
        self.train, self.evaluation = self._scan()
        if self.train.classes != self.evaluation.classes:
            odd = sorted(set(self.train.classes) ^ set(self.evaluation.classes))
            raise ValueError(
                "data: training and evaluation images must have the same classes; only in one of them: "
                f"{', '.join(odd[:10])}"
            )
        if len(self.train.classes) != self.frame.num_classes:
            raise ValueError(
                f"data: the images have {len(self.train.classes)} classes, the space counts costs for a classifier of "
                f"{self.frame.num_classes}; set the space's frame.num_classes to {len(self.train.classes)}"
            )
        # The order matters: the held-out images must not depend on how many calibrate.
        counts = {"rating": config.rate.images, "calibration": config.rate.calibration_images}
        if sum(counts.values()) > len(self.train):
            raise ValueError(
                f"data: rate.images = {counts['rating']} and rate.calibration_images = {counts['calibration']} are more than the "
                f"{len(self.train)} training images; lower them or add images"
            )
        self.splits: Mapping[str, NDArray[np.int64]] = class_balanced_split(self.train.labels, counts, config.seed)
        self._store_splits()

    def _scan(self) -> tuple[ImageIndex, ImageIndex]:
        config = self.config.data
        if config.kind == "digits":
            root = write_digits(config.root or self.directory / "digits", size=self.frame.resolution)
            return ImageIndex.scan(root / "train"), ImageIndex.scan(root / "test")
        if config.kind == "list":
            return self._listed(config.train_list), self._listed(config.eval_list)
        assert config.root is not None  # the configuration was validated
        return self._folder(Path(config.root) / "train"), self._folder(Path(config.root) / config.eval_dir)

    def _folder(self, folder: Path) -> ImageIndex:
        return ImageIndex.scan(folder, on_bad=self.config.data.on_bad, store=self._store(folder))

    def _listed(self, path: str | None) -> ImageIndex:
        assert path is not None  # the configuration was validated
        config = self.config.data
        return ImageIndex.from_list(path, root=config.root, on_bad=config.on_bad, store=self._store(Path(path)))

    def _store(self, source: Path) -> Path:
        """Where is kept what the image files of a folder or list were seen to be: a start must not open millions of them."""
        return store_path(self.config.data.index_dir or self.directory / "images", source)

    def _store_splits(self) -> None:
        """Keeps the split; refuses images, or held-out ones, that differ from those the run began with."""
        path, fingerprint = self.directory / "splits.npz", self.train.fingerprint()
        if path.exists() and not _holds(path, fingerprint, self.splits, ("rating",)):
            raise ValueError(
                f"data: the training images are not those this run began with ({path}); restore them, or start anew"
            )
        if path.exists() and _holds(path, fingerprint, self.splits, ("rating", "calibration")):
            return  # of many ranks the first writes
        with written_aside(path) as aside, open(aside, "wb") as file:
            np.savez(
                file,
                fingerprint=np.array(fingerprint),
                rating=self.splits["rating"],
                calibration=self.splits["calibration"],
            )

    @property
    def unrated(self) -> ImageIndex:
        """What the supernet is trained on: all training images but the rated ones, which are held out."""
        return self.train.subset(np.setdiff1d(np.arange(len(self.train)), self.splits["rating"]))

    def split(self, name: str) -> ImageIndex:
        """The images of one split."""
        return self.train.subset(self.splits[name])

    @cached_property
    def statistics(self) -> Mapping[str, Any]:
        """mean, std, crop_pct and interpolation that the teacher was trained with; timm's defaults for a network of one's own."""
        import timm
        from timm.data import resolve_data_config

        teacher = self.config.teacher
        known = timm.models.get_pretrained_cfg(teacher.model) if teacher.arch is None else None
        cfg = {} if known is None else known.to_dict()
        # Colours are said aloud because timm refuses to resolve nothing at all, which is what an own network has.
        found: Mapping[str, Any] = resolve_data_config({"in_chans": 3}, pretrained_cfg=cfg)
        return found

    def _transform(self, *, training: bool) -> Transform:
        if self.config.data.kind == "digits":
            return digits_transforms(self.frame.resolution)[0 if training else 1]
        found, size = self.statistics, self.frame.resolution
        shared = {name: found[name] for name in ("mean", "std", "interpolation")}
        return TrainTransform(size, **shared) if training else EvalTransform(size, crop_pct=found["crop_pct"], **shared)

    def loader(
        self,
        index: ImageIndex,
        batch_size: int,
        *,
        training: bool,
        augmentation: Mapping[str, Any] = MappingProxyType({}),
        half: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> DaliLoader:
        """A DALI loader over an index with this run's transforms.

        Args:
            batch_size: images per batch of this loader.
            augmentation: replaces fields of the training transform.
            half: bfloat16 images, for a model whose first layer would round them to that in any case.
            share: (number, how many) of the loaders that share out the images, each its own part of every training batch.
        """
        import torch

        transform = replace(self._transform(training=training), **augmentation)
        own = {"dtype": torch.bfloat16 if half else torch.float32, "rank": share[0], "world_size": share[1]}
        return self._loader(index, transform, batch_size, self.settings, **own)

    def classifier_loaders(self, recipe: Recipe, share: tuple[int, int] = (0, 1)) -> tuple[DaliLoader, DaliLoader]:
        """All training images and the evaluation images, as a classifier's training takes them.

        Args:
            share: (number, how many) of the ranks that train together, each on its part of every batch.
        """
        training = self.loader(
            self.train,
            recipe.batch_size // share[1],
            training=True,
            augmentation=recipe.augmentation(),
            share=share,
        )
        # Of a size that does not depend on the number of ranks, so that neither do the bits of a logit.
        judged = min(recipe.batch_size, EVAL_IMAGES)
        return training, self.loader(self.evaluation, judged, training=False, share=share)

    @cached_property
    def settings(self) -> Settings:
        """Threads and prefetching: configured, measured on the training images, or the defaults where these are few."""
        config, train = self.config.data, self.train
        if len(train) < LEAST_IMAGES or None not in (config.threads, config.prefetch):
            default = Settings()
            return Settings(config.threads or default.threads, config.prefetch or default.prefetch)
        transform = self._transform(training=True)
        batch_size = min(64, self.config.train.batch_size)  # of a large one a second would measure the start
        return tune(
            lambda threads, prefetch: self._loader(train, transform, batch_size, Settings(threads, prefetch)),
            threads=config.threads,
            prefetch=config.prefetch,
        )

    def _loader(
        self, index: ImageIndex, transform: Transform, batch_size: int, settings: Settings, **options: Any
    ) -> DaliLoader:
        return DaliLoader(
            index,
            transform,
            batch_size=batch_size,
            seed=self.config.seed,
            training=isinstance(transform, TrainTransform),
            device=self.config.data.device,
            threads=settings.threads,
            prefetch=settings.prefetch,
            on_bad=self.config.data.on_bad,
            **options,
        )


def _holds(path: Path, fingerprint: str, splits: Mapping[str, NDArray[np.int64]], names: Sequence[str]) -> bool:
    """Whether a file is of these images, and of these splits."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            is_same = str(stored["fingerprint"]) == fingerprint
            return is_same and all(np.array_equal(stored[name], splits[name]) for name in names)
    except Exception as error:  # a damaged archive can fail in any way inside zipfile and numpy
        raise ValueError(f"{path}: damaged ({error}); start a new run, or restore it") from error
