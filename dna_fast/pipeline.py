"""A run: one configuration, one directory, and the stages that fill it. Every stage starts from files that earlier ones left."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dna_fast._files import json_sha256, read_json, write_json
from dna_fast.config import RunConfig, load_config
from dna_fast.resume import Which
from dna_fast.space import SearchSpace

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from dna_fast.architecture import Architecture
    from dna_fast.checkpoint import Checkpoint
    from dna_fast.distill import FeatureDistiller
    from dna_fast.images import RunImages
    from dna_fast.parallel import World
    from dna_fast.pipeline_ranks import OnPlacement
    from dna_fast.rate import OnProgress as OnRateProgress
    from dna_fast.recipe import Accuracy, Recipe
    from dna_fast.retrain_step import FitResult, StepRecord
    from dna_fast.supernet import Supernet
    from dna_fast.tables import CostTable, RatingTable
    from dna_fast.teacher import Teacher
    from dna_fast.train import OnProgress as OnTrainProgress
    from dna_fast.train import Problem

    OnStep = Callable[[StepRecord], None]

MAY_CHANGE = ("train.placement",)  # where a run is gone on with: it may have another number of ranks there
FITS = "fit"  # the directory of classifiers in training


class Run:
    """One run directory.

    Args:
        directory: where everything is kept.
        config: what to do; its resolved form is `config.yaml` in the directory.
        checkpoint: which of the supernet's checkpoints is rated.

    Attributes:
        world: the ranks that train, rate and retrain together; None: this process alone.
    """

    def __init__(self, directory: Path, config: RunConfig, checkpoint: Which = Which.LAST) -> None:
        self.directory, self.config, self.checkpoint = directory, config, checkpoint
        self.world: World | None = None

    @property
    def is_leader(self) -> bool:
        """Whether this process writes what is one for all ranks."""
        return self.world is None or self.world.is_leader

    @classmethod
    def start(cls, config_path: str | Path, directory: str | Path, overrides: Sequence[str] = ()) -> Run:
        """Begins a run, or goes on with the one in `directory` if its configuration is the same.

        Raises:
            ValueError: an invalid configuration, or a directory that belongs to another one.
        """
        directory = Path(directory)
        config = load_config(config_path, overrides)
        stored = directory / "config.yaml"
        known = load_config(stored) if stored.exists() else None
        if known is not None and (differing := _differences(known.to_dict(), config.to_dict())):
            raise ValueError(
                f"{directory}: holds a run of another configuration: {'; '.join(differing[:5])}. Choose another --out; or, "
                f"where a later stage is concerned (rate, search, retrain), change {stored} and give the run directory"
            )
        directory.mkdir(parents=True, exist_ok=True)
        if known != config:  # of many ranks the first writes
            config.dump(stored)
        return cls(directory, config)

    @classmethod
    def open(cls, directory: str | Path, checkpoint: Which = Which.LAST) -> Run:
        """Opens a run that was started before.

        Raises:
            ValueError: the directory holds no run.
        """
        directory = Path(directory)
        if not (directory / "config.yaml").exists():
            raise ValueError(
                f"{directory}: not a run directory (no config.yaml); start one with: dna-fast train CONFIG --out {directory}"
            )
        return cls(directory, load_config(directory / "config.yaml"), checkpoint)

    @staticmethod
    def training_files(directory: Path) -> tuple[Path, ...]:
        """What training of teacher and supernet leaves in a run directory, whichever it has come to."""
        names = ("supernet/state.json", "teacher.safetensors", f"{FITS}/teacher.safetensors")
        return tuple(directory / name for name in names)

    # ---- what stages share ------------------------------------------------------------------------------------------

    @cached_property
    def space(self) -> SearchSpace:
        return self.config.search_space()

    @cached_property
    def device(self) -> torch.device:
        """Where to compute: what the configuration says, or with `auto` the GPU if torch can use one."""
        import torch

        if self.config.device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("device: cuda was asked for, but torch finds no GPU it can use (see: dna-fast info)")
        use_gpu = self.config.device != "cpu" and torch.cuda.is_available()
        if self.world is not None:
            return self.world.use("cuda" if use_gpu else "cpu")
        return torch.device("cuda" if use_gpu else "cpu")

    @cached_property
    def images(self) -> RunImages:
        """The images, their splits and the loaders over them."""
        from dna_fast.images import RunImages

        return RunImages(self.directory, self.config)

    # ---- teacher ----------------------------------------------------------------------------------------------------

    def teacher(self, on_step: OnStep | None = None) -> Teacher:
        """The teacher, cut and checked against the space: loaded, or trained there and then if the configuration says so.

        Its cuts, macs, and the sha256 of its weights go to `teacher.json`.

        Raises:
            ValueError: unknown model or cuts, features that do not match the space, other weights than the run began with.
            RuntimeError: a teacher trained here that stays below teacher.fit.min_accuracy.
        """
        from dna_fast import pipeline_teacher

        return pipeline_teacher.teacher(self, on_step)

    def fit_classifier(
        self,
        model: nn.Module,
        recipe: Recipe,
        on_step: OnStep | None,
        *,
        checkpoint: Path,
        logits: Callable[[Tensor], Tensor] | None = None,
        distiller: FeatureDistiller | None = None,
        world: World | None = None,
    ) -> FitResult:
        """Trains a classifier on all training images; the checkpoint's name must tell apart whatever it depends on."""
        from dna_fast.retrain import fit

        return fit(
            model,
            *self.images.classifier_loaders(recipe, (0, 1) if world is None else (world.rank, world.size)),
            recipe,
            seed=self.config.seed,
            teacher_logits=logits,
            distiller=distiller,
            device=self.device,
            on_step=on_step,
            checkpoint=checkpoint,
            checkpoint_minutes=self.config.train.checkpoint_minutes,
            world=world,
        )

    # ---- supernet and tables ----------------------------------------------------------------------------------------

    def supernet(self, teacher: Teacher, held: Collection[int] | None = None) -> Supernet:
        """The student with its initial weights, or some of its blocks."""
        from dna_fast.supernet import Supernet

        return Supernet(
            self.space,
            teacher.plan.channels,
            boundary=self.config.supernet.boundary,
            bn_group=self.config.train.bn_group,
            seed=self.config.seed,
            held=held,
        ).to(self.device)

    def train(
        self,
        teacher: Teacher,
        on_progress: OnTrainProgress | None = None,
        *,
        placement: str | None = None,
        on_placement: OnPlacement | None = None,
        profile_into: Path | None = None,
    ) -> Supernet:
        """Trains the supernet, or what is left of that, on all training images but the rated ones.

        Args:
            placement: instead of the configuration's train.placement.
            on_placement: hears, where many ranks train, which of them trains what.
            profile_into: directory for a profiler's trace of a few steps; None: no profiler. For a process alone.
        """
        from dna_fast.train import Trainer
        from dna_fast.train_profile import profiled

        if self.world is not None:
            from dna_fast import pipeline_ranks

            if profile_into is not None:
                raise ValueError("--profile: records one process, and this is one of several; give it without torchrun")
            words = self.config.train.placement if placement is None else placement
            return pipeline_ranks.train(self, teacher, self.world, words, on_placement, on_progress)
        if placement is not None:
            raise ValueError(
                f"--placement {placement}: says which of several ranks trains what, and this is one process; start it with torchrun "
                "(torchrun --nproc-per-node 4 -m dna_fast train ...)"
            )
        supernet = self.supernet(teacher)
        trainer = Trainer(self.problem(supernet, teacher))
        config = self.config.train
        half = config.amp_dtype is not None  # the teacher's and the student's first convolutions round to it
        loader = self.images.loader(self.images.unrated, config.batch_size, training=True, half=half)
        if profile_into is None:
            trainer.run(loader, on_progress)
        else:
            with profiled(loader, profile_into) as watched:
                trainer.run(watched, on_progress)
        return supernet

    def problem(self, supernet: Supernet, teacher: Teacher) -> Problem:
        """The training of this supernet, or of the blocks that it holds, as the configuration says."""
        from dna_fast.train import Problem

        into = self.directory / "supernet"
        compiled = self.config.teacher.compile
        return Problem(supernet, teacher, self.config.train, self.config.seed, into, self.identity(teacher), compiled)

    def identity(self, teacher: Teacher) -> str:
        """What the supernet's weights depend on: configuration, teacher, cuts, images."""
        parts = [self.config.identity(), teacher.weights_sha256(), *teacher.plan.names, self.images.train.fingerprint()]
        return json_sha256(parts)

    def rate(
        self, teacher: Teacher, on_progress: OnRateProgress | None = None, *, max_memory_bytes: int | None = None
    ) -> RatingTable:
        """Rates every candidate of the trained supernet, as the run's `checkpoint` has it; the table goes to `ratings.npz`.

        Args:
            max_memory_bytes: instead of the configuration's rate.max_memory.

        Raises:
            ValueError: the supernet is not trained to the end.
        """
        from dna_fast import pipeline_rate

        return pipeline_rate.rate_run(self, teacher, on_progress, max_memory_bytes)

    def trained_supernet(self, teacher: Teacher) -> tuple[Supernet, Checkpoint]:
        """The student with the weights of the run's `checkpoint`, and that checkpoint.

        Raises:
            ValueError: the supernet is not trained to the end.
        """
        from dna_fast.checkpoint import load_block

        supernet, found = self.supernet(teacher), self._trained_checkpoint(teacher)
        for b in range(len(supernet.blocks)):
            load_block(found, b, supernet.block(b))
        return supernet, found

    def _trained_checkpoint(self, teacher: Teacher) -> Checkpoint:
        """The checkpoint to rate, of a supernet that was trained to the end."""
        from dna_fast.checkpoint import find_checkpoint

        where = (self.directory / "supernet", self.identity(teacher))
        last = find_checkpoint(*where)
        if last is None or last.position.epoch < self.config.train.epochs:
            raise ValueError(f"{self.directory}: the supernet is not trained yet; run: dna-fast train {self.directory}")
        if self.checkpoint is Which.LAST:
            return last
        best = find_checkpoint(*where, self.checkpoint)
        assert best is not None, "there is a last one"
        return best

    def costs(self) -> CostTable:
        """The exact costs of every candidate, and latencies where `profile.json` has them; also written to `costs.npz`."""
        from dna_fast.cost import cost_table
        from dna_fast.profile_table import Profile, add_latencies

        table, measured = cost_table(self.space), self.directory / "profile.json"
        if measured.exists() and (profile := Profile.load(measured)).is_complete(self.space):
            table = add_latencies(table, profile)
        if self.is_leader:
            table.save(self.directory / "costs.npz")
        return table

    # ---- search and retraining --------------------------------------------------------------------------------------

    @property
    def teacher_macs(self) -> int | None:
        """Multiply-accumulates of the whole teacher for one image, once it is known."""
        path = self.directory / "teacher.json"
        if not path.exists():
            return None
        record = read_json(path)
        macs = record.get("macs") if isinstance(record, dict) else None
        if type(macs) is not int or macs <= 0:
            raise ValueError(f"{path}: damaged, macs must be a whole number > 0, got {macs!r}; restore it from a copy")
        return macs

    @property
    def teacher_source(self) -> str:
        """Where the teacher's weights came from, in words."""
        return str(read_json(self.directory / "teacher.json")["source"])

    @property
    def teacher_accuracy(self) -> Accuracy | None:
        """Of a teacher that was trained here."""
        from dna_fast.recipe import Accuracy

        path = self.directory / "teacher_training.json"
        if not path.exists():
            return None
        record = read_json(path)["accuracy"]
        return Accuracy(record["correct"], record["total"])

    def retrain(self, arch: Architecture, teacher: Teacher, name: str, on_step: OnStep | None = None) -> FitResult:
        """Trains an architecture from scratch by the run's recipe; weights, architecture and accuracy go to `models/<name>`."""
        import torch

        from dna_fast.export import build_model, save_model

        checkpoint, recipe = self.fit_checkpoint(arch, teacher, name), self.recipe()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.config.seed)
            model = build_model(arch, num_classes=len(self.images.train.classes), **recipe.model_args())
        result = self.fit_classifier(
            model,
            recipe,
            on_step,
            checkpoint=checkpoint,
            logits=teacher.logits if recipe.distill_weight > 0 else None,
            distiller=self.distiller(arch, teacher),
            world=self.world,
        )
        if self.is_leader:
            save_model(model, arch, self.directory / "models" / name)
            write_json(
                self.directory / "models" / name / "training.json", {**result.to_dict(), "recipe": asdict(recipe)}
            )
        return result

    def fit_checkpoint(self, arch: Architecture, teacher: Teacher, name: str, *inherited: str) -> Path:
        """Where an architecture's training is kept; the name tells apart architectures, recipes, teachers, and what is inherited."""
        digest = json_sha256([arch.to_dict(), asdict(self.recipe()), teacher.weights_sha256(), *inherited])
        return self.directory / FITS / f"{name}-{digest[:12]}.safetensors"

    def distiller(self, arch: Architecture, teacher: Teacher) -> FeatureDistiller | None:
        """What compares an architecture's features with the teacher's in training; None where the recipe asks for nothing."""
        from dna_fast.distill import FeatureDistiller

        if self.config.retrain.feature_weight == 0:
            return None
        widths = tuple(layers[-1].out_channels for layers in arch.blocks)
        return FeatureDistiller(widths, teacher, seed=self.config.seed)

    def recipe(self) -> Recipe:
        """How networks are retrained, as the configuration says."""
        from dna_fast.recipe import Recipe

        config = self.config.retrain
        own = {f.name for f in fields(Recipe)}
        values = {name: value for name, value in config.to_dict().items() if name in own}
        return Recipe(**values, eval_epochs=config.epochs)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Keys whose values differ, in words."""
    words = []
    for name in {**old, **new}:
        a, b = old.get(name), new.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            words += _differences(a, b, f"{prefix}{name}.")
        elif a != b and f"{prefix}{name}" not in MAY_CHANGE:
            words.append(f"{prefix}{name} is {a!r} there and {b!r} here")
    return words
