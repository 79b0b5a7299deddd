"""The teacher: any network, frozen, whose features behind every block come from one pass that ends at the last cut."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dna_fast._names import nearest
from dna_fast.teacher_cuts import (
    CutPlan,
    CutPoint,
    Execution,
    check_input_size,
    list_cut_candidates,
    plan_of,
    probe,
    propose_cuts,
)

if TYPE_CHECKING:
    from dna_fast.teacher_fused import FusionReport

__all__ = [
    "CutPlan",
    "CutPoint",
    "Teacher",
    "build_efficientnet",
    "list_cut_candidates",
    "load_teacher",
    "propose_cuts",
]

BN_MODES = ("eval", "batch")


class _PassDone(BaseException):
    """Ends a pass behind the last cut. Not an Exception, so that a model's own `except Exception` lets it through."""


class _Tape(threading.local):
    """What this thread's pass has met so far; None outside a pass, where the hooks do nothing."""

    features: list[Tensor | None] | None = None
    stop_at_last = False

    def __reduce__(self) -> tuple[type[_Tape], tuple[()]]:
        return type(self), ()  # a copied or unpickled teacher gets a tape of its own


class _Tap:
    """Forward hook of one cut. Not a closure: a deep copy of the teacher must refer to its own tape."""

    def __init__(self, tape: _Tape, block: int) -> None:
        self.tape, self.block = tape, block

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if torch.compiler.is_compiling():  # a graph of some modules, which is no pass
            return
        features = self.tape.features
        if features is None:
            return
        features[self.block] = output
        if self.tape.stop_at_last and self.block == len(features) - 1:
            raise _PassDone


class Teacher(nn.Module):
    """A frozen network and the features behind its blocks.

    The model is taken over: its parameters stop requiring gradients and it stays in evaluation mode whatever `train`
    is called with. No call changes its parameters or buffers, and several threads may call it at once. Device, dtype
    and autocast are the caller's (`teacher.to(...)`).

    Attributes:
        plan: the cuts, their shapes and macs.
        macs: multiply-accumulates of the whole model, head included, batch 1.
        fusion: which layers run fused, and how exactly; None without `fused`.
        model, input_size, bn, data_config: as the arguments.

    Args:
        model: a classifier or any other module that maps images [N, C, H, W] to something.
        cuts: names of the modules whose outputs end the blocks, in execution order, or a plan from `propose_cuts`.
        input_size: (channels, height, width) of the images.
        bn: "eval" uses the running statistics; "batch" normalises every batch by its own, as the released code does,
            and leaves the running statistics alone.
        data_config: mean, std, crop_pct, interpolation, input_size (of the weights, not of this teacher); None: from
            timm's pretrained configuration if the model has one.
        fused: let ops.mbconv run the MBConv layers of a timm model where bn is "eval": the same features up to the
            rounding of sums, from the same modules and weights (`dna_fast.teacher_fused.fuse` says when and how).

    Raises:
        ValueError: a cut that does not exist (the nearest names are given), is out of order, is not executed once, is
            not one tensor [N, C, H, W] or is overwritten in place; a plan made for another model or size; an unknown
            `bn`, or "batch" without batch norms; a forward that fails on such an image.
    """

    def __init__(
        self,
        model: nn.Module,
        cuts: Sequence[str] | CutPlan,
        *,
        input_size: Sequence[int],
        bn: str = "eval",
        data_config: Mapping[str, Any] | None = None,
        fused: bool = True,
    ) -> None:
        super().__init__()
        if bn not in BN_MODES:
            raise ValueError(f"Teacher: bn must be one of {', '.join(BN_MODES)}, got {bn!r}")
        self.input_size = check_input_size(input_size)
        self.plan, self.macs = _checked_plan(model, cuts, self.input_size)
        self.bn = bn
        self.data_config = _data_config(model) if data_config is None else dict(data_config)
        if bn == "batch":
            _use_batch_statistics(model)
        self.model = model.requires_grad_(False)
        self._tape = _Tape()
        for block, name in enumerate(self.plan.names):
            model.get_submodule(name).register_forward_hook(_Tap(self._tape, block))
        self.train(False)
        self.fusion: FusionReport | None = None
        if fused and bn == "eval":
            from dna_fast.teacher_fused import fuse

            self.fusion = fuse(model, self.input_size)  # after the hooks: what has one inside stays as it is

    def train(self, mode: bool = True) -> Teacher:
        """Keeps the teacher in evaluation mode (bn="batch": all but its batch norms); `mode` is not used."""
        super().train(False)
        if self.bn == "batch":
            for norm in _batch_norms(self.model):
                norm.training = True  # not norm.train(): timm's norms have a dropout as a child
        return self

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Features behind every block, from one pass that ends at the last cut.

        Args:
            images: [N, C, H, W], normalised as `data_config` says.

        Returns:
            One tensor [N, channels, height, width] per block as in `plan`, channels-last if the images are.

        Raises:
            ValueError: images of another size than `input_size`.
            RuntimeError: the pass did not reach a cut.
        """
        return self._pass(images, stop_at_last=True)[0]

    @torch.no_grad()
    def forward_with_logits(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """(features as `forward` gives them, output of the whole model), from one pass."""
        return self._pass(images, stop_at_last=False)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Output of the whole model for images [N, C, H, W] of any size it accepts."""
        self._keep_mode()
        logits: Tensor = self.model(images)
        return logits

    def _keep_mode(self) -> None:
        if self.model.training:  # someone called train() on the model itself
            self.train(False)

    def _pass(self, images: Tensor, *, stop_at_last: bool) -> tuple[tuple[Tensor, ...], Any]:
        if images.dim() != 4 or tuple(images.shape[1:]) != self.input_size:
            size, got = str(self.input_size)[1:-1], list(images.shape)
            raise ValueError(f"Teacher: images must be [N, {size}], got {got}; resize them or set input_size")
        self._keep_mode()
        features: list[Tensor | None] = [None] * len(self.plan.points)
        self._tape.features, self._tape.stop_at_last = features, stop_at_last
        output = None
        try:
            output = self.model(images)
        except _PassDone:
            pass
        finally:
            self._tape.features = None
        is_channels_last = images.is_contiguous(memory_format=torch.channels_last)
        done = []
        for name, feature in zip(self.plan.names, features, strict=True):
            if feature is None:
                raise RuntimeError(f"Teacher: the pass did not reach cut {name!r} as the probe did; cut elsewhere")
            done.append(feature.contiguous(memory_format=torch.channels_last) if is_channels_last else feature)
        return tuple(done), output

    def check_shapes(self, sizes: Sequence[int]) -> None:
        """Checks that block i's feature has `sizes[i]` pixels per side.

        Raises:
            ValueError: it has not, or the number of blocks differs; a table of all blocks says where.
        """
        points, expected = self.plan.points, [f"{size}x{size}" for size in sizes]
        got = [f"{p.height}x{p.width}" for p in points]
        if got == expected:
            return
        rows = [f"{'block':>5}  {'expected':<9}  teacher"]
        for block in range(max(len(points), len(sizes))):
            want = expected[block] if block < len(sizes) else "no block"
            have = f"{points[block].channels}x{got[block]} ({points[block].name})" if block < len(points) else "no cut"
            rows.append(f"{block:>5}  {want:<9}  {have}{'' if got[block:][:1] == [want] else '  <-'}")
        raise ValueError(
            f"a teacher whose cuts do not match the space at input_size {self.input_size}; choose cuts with "
            f"propose_cuts(..., sizes={tuple(sizes)}) or another resolution:\n" + "\n".join(rows)
        )

    def weights_sha256(self) -> str:
        """Identity of parameters and buffers (names, dtypes, shapes, values), whatever their device and layout."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            if isinstance(tensor, Tensor):
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def _checked_plan(model: nn.Module, cuts: Sequence[str] | CutPlan, size: tuple[int, int, int]) -> tuple[CutPlan, int]:
    """The plan of these cuts on this model, and the macs of the whole model; ValueError as `Teacher` says."""
    names = list(cuts.names if isinstance(cuts, CutPlan) else cuts)
    if isinstance(cuts, str) or not names:
        raise ValueError(f"Teacher: cuts must be a list of at least one module name, got {cuts!r}")
    known = [name for name, _ in model.named_modules() if name]
    for name in names:
        if name not in known:
            near = nearest(name, known, count=3)
            raise ValueError(f"Teacher: no module {name!r} in {type(model).__name__}; nearest: {', '.join(near)}")
    seen = probe(model, size)
    executed = {e.name: e for e in seen.executions}
    for name in names:
        if name not in executed:
            raise ValueError(f"Teacher: cut {name!r} is never executed (a bare list?); name a module that is called")
    in_order = [name for name in executed if name in names]
    if names != in_order:
        raise ValueError(f"Teacher: cuts must be in execution order without repetition, {in_order}, got {names}")
    plan = plan_of([_checked_cut(executed[name]) for name in names])
    if isinstance(cuts, CutPlan) and cuts != plan:
        raise ValueError(
            f"Teacher: the plan was made for another model or input size than {size}; make it again with "
            f"propose_cuts. Expected:\n{plan.table()}\ngot:\n{cuts.table()}"
        )
    return plan, seen.macs


def _checked_cut(cut: Execution) -> Execution:
    if cut.calls != 1:
        raise ValueError(f"Teacher: cut {cut.name!r} must be executed once, got {cut.calls} times; cut elsewhere")
    if cut.shape is None:
        got = "something else" if cut.output is None else str(list(cut.output.shape))
        raise ValueError(f"Teacher: output of cut {cut.name!r} must be one map [1, C, H, W], got {got}; cut before it")
    if cut.is_overwritten:
        raise ValueError(f"Teacher: a later module overwrites the output of cut {cut.name!r} in place; cut at that one")
    return cut


def _batch_norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def _use_batch_statistics(model: nn.Module) -> None:
    norms = _batch_norms(model)
    if not norms:
        raise ValueError(f"Teacher: bn='batch' needs batch norms and {type(model).__name__} has none; use bn='eval'")
    for norm in norms:
        # In training mode torch then leaves the running statistics out of the call altogether. Momentum 0 would not
        # do: it still counts batches, and turns an overflowing batch (inf x 0) into nan for good.
        norm.track_running_stats = False


def _data_config(model: nn.Module) -> dict[str, Any] | None:
    """mean, std, crop_pct, interpolation, input_size of timm's pretrained configuration, or None without one."""
    if not getattr(model, "pretrained_cfg", None):
        return None
    from timm.data.config import resolve_model_data_config

    config = resolve_model_data_config(model)
    return {key: config[key] for key in ("mean", "std", "crop_pct", "interpolation", "input_size")}


# ---- models ---------------------------------------------------------------------------------------------------------


def load_teacher(
    model_name: str,
    *,
    pretrained: bool = True,
    checkpoint: str | Path | None = None,
    num_classes: int | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Creates a timm model with its published weights, those of a file, or random ones.

    Args:
        model_name: timm name, with a weights tag if wanted: ``tf_efficientnet_b7.aa_in1k``.
        pretrained: download timm's weights (cached by the hub). A checkpoint takes their place.
        checkpoint: a .safetensors file, or a torch file of tensors only (state dict, or "state_dict" or "model" in it).
        num_classes: width of the classifier; None: the model's own.
        model_kwargs: passed on to timm.create_model.

    Raises:
        ValueError: unknown model or tag (known ones are named); a checkpoint that is missing, damaged or does not fit.
        RuntimeError: the weights could not be downloaded.
    """
    import timm

    _check_model_name(model_name)
    kwargs = dict(model_kwargs or {})
    if num_classes is not None:
        kwargs["num_classes"] = num_classes
    pretrained = pretrained and checkpoint is None
    try:
        model: nn.Module = timm.create_model(model_name, pretrained=pretrained, **kwargs)
    except Exception as error:
        if not pretrained or isinstance(error, TypeError):  # a TypeError is about model_kwargs
            raise
        # The hub raises many unrelated classes for a missing network, so they are told apart by what was asked for.
        raise RuntimeError(
            f"could not get the pretrained weights of {model_name}: {type(error).__name__}: {error}. Without a network "
            "pass checkpoint='FILE.safetensors' (or .pth), fetched elsewhere, or pretrained=False for random weights"
        ) from error
    if checkpoint is not None:
        _load_checkpoint(model, Path(checkpoint))
    return model


def _check_model_name(model_name: str) -> None:
    import timm

    name, _, tag = model_name.partition(".")
    if not timm.is_model(name):
        near = nearest(name, timm.list_models(), count=3)
        raise ValueError(f"timm has no model {name!r}; nearest: {', '.join(near)}")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in tags:
        raise ValueError(f"timm has no weights {tag!r} for {name}; it has: {', '.join(tags) or 'none'}")


def _load_checkpoint(model: nn.Module, path: Path) -> None:
    weights = _read_checkpoint(path)
    own = model.state_dict()
    shapes = {k: f"{k} (expected {list(own[k].shape)}, got {list(weights[k].shape)})" for k in own if k in weights}
    problems = {
        "missing": [key for key in own if key not in weights],
        "unexpected": [key for key in weights if key not in own],
        "of another shape": [text for key, text in shapes.items() if own[key].shape != weights[key].shape],
    }
    texts = [f"{len(keys)} {what}: {', '.join(keys[:5])}" for what, keys in problems.items() if keys]
    if texts:
        raise ValueError(
            f"checkpoint {path} does not fit {type(model).__name__}: {'; '.join(texts)}; check name and num_classes"
        )
    model.load_state_dict(weights)


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    """State dict of a file; prefixes that DistributedDataParallel and torch.compile add are taken off."""
    if not path.is_file():
        raise ValueError(f"checkpoint {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            data: Any = load_file(path)
        else:
            data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = f"cannot be read as tensors only ({type(error).__name__}); save its state dict as .safetensors"
        raise ValueError(f"checkpoint {path}: {reason}") from error
    for key in ("state_dict", "model"):
        if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
            data = data[key]
    if not isinstance(data, Mapping) or not data or not all(isinstance(value, Tensor) for value in data.values()):
        got = type(data).__name__
        raise ValueError(f"checkpoint {path}: expected a state dict of tensors, got {got}; save model.state_dict()")
    return {key.removeprefix("module.").removeprefix("_orig_mod."): value for key, value in data.items()}


def build_efficientnet(
    arch_def: Sequence[Sequence[str]],
    *,
    stem_size: int,
    num_features: int,
    num_classes: int,
    seed: int = 0,
    **kwargs: Any,
) -> nn.Module:
    """An EfficientNet of one's own (SiLU; widths taken as given) with random weights.

    Args:
        arch_def: stages of timm block strings: ``[["ds_r1_k3_s1_e1_c8_se0.25"], ["ir_r2_k3_s2_e6_c12_se0.25"]]``.
        stem_size: width of the stem.
        num_features: width of the head's 1x1 convolution.
        num_classes: width of the classifier.
        seed: of the initial weights; the global random state is left alone.
        kwargs: of timm's EfficientNet: pad_type ("" or "same"), drop_rate, in_chans, ...

    Raises:
        ValueError: a string that timm cannot read.
    """
    from timm.models._efficientnet_builder import decode_arch_def, round_channels
    from timm.models.efficientnet import EfficientNet

    options = {"act_layer": nn.SiLU, "round_chs_fn": partial(round_channels, divisor=1), **kwargs}  # timm rounds to 8s
    options |= {"stem_size": stem_size, "num_features": num_features, "num_classes": num_classes}
    for text in (text for stage in arch_def for text in stage):
        try:
            decode_arch_def([[text]])
        except Exception as error:  # what timm raises depends on the letter that is wrong or missing
            expected = (
                "such as ir_r2_k3_s2_e4_c32_se0.25 (kind, repeats, kernel, stride, expansion, channels, squeeze-excite)"
            )
            raise ValueError(f"teacher arch: timm cannot read {text!r}; expected a string {expected}") from error
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs, too
        stages = decode_arch_def([list(stage) for stage in arch_def])
        model: nn.Module = EfficientNet(stages, **options)
    return model
