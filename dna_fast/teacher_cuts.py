"""Where a network can be cut into blocks: one probe of its forward pass, the possible cuts, and a balanced proposal.

A cut is the output of a module. It is offered only if the network is a chain there: what is computed behind the cut
depends on the image through the cut alone (no skip connection jumps over it). That is read off the autograd graph of
the probe, so it holds for networks whose module names say nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves

# A block with less than 1 / 4 of an equal share of the network's macs is hardly worth training alone.
SMALL_BLOCK_DIVISOR = 4


@dataclass(frozen=True)
class CutPoint:
    """The output [N, channels, height, width] of the module `name`, and its cost from the cut before it."""

    name: str
    channels: int
    height: int
    width: int
    macs: int  # convolutions and linear layers executed since the previous cut (or the image), batch 1


@dataclass(frozen=True)
class CutPlan:
    """The cuts of a teacher in execution order; cut i is the output of block i, and block 0 starts at the image."""

    points: tuple[CutPoint, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(point.name for point in self.points)

    @property
    def channels(self) -> tuple[int, ...]:
        """Teacher width behind each block, as the supernet asks for it."""
        return tuple(point.channels for point in self.points)

    def table(self) -> str:
        """Plain text for people: one line per block."""
        return cut_table(self.points, first_column="block")

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for JSON."""
        return {"points": [asdict(point) for point in self.points]}


def cut_table(points: Sequence[CutPoint], first_column: str = "cut") -> str:
    """Aligned plain text: number, name, channels, size, macs and their share of all the listed macs."""
    total = max(1, sum(point.macs for point in points))
    rows = [(first_column, "output of", "channels", "size", "macs", "share")]
    for number, p in enumerate(points):
        share = f"{100 * p.macs / total:.1f} %"
        rows.append((str(number), p.name, str(p.channels), f"{p.height}x{p.width}", f"{p.macs / 1e6:,.1f} M", share))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    aligned = [[f"{cell:{'<' if c == 1 else '>'}{widths[c]}}" for c, cell in enumerate(row)] for row in rows]
    return "\n".join("  ".join(row) for row in aligned)


# ---- the probe ------------------------------------------------------------------------------------------------------


@dataclass
class Execution:
    """What the probe saw of one module."""

    name: str
    calls: int = 0
    macs_to_end: int = 0  # macs of the whole network up to the end of this module
    spatial_to_end: int = 0  # likewise: convolutions that look beyond one pixel
    in_shape: tuple[int, ...] | None = None
    output: Tensor | None = field(default=None, repr=False)  # None: not a single tensor
    version: int = 0  # of the output when the module returned it
    node: Any = field(default=None, repr=False)  # autograd node that made the output
    is_chain: bool = False

    @property
    def is_overwritten(self) -> bool:
        """A later module changed the output in place (an activation, say), so it cannot be kept as a feature."""
        return self.output is not None and self.output._version != self.version

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """(channels, height, width), or None if the output is not one tensor [1, C, H, W]."""
        if self.output is None or self.output.dim() != 4 or self.output.shape[0] != 1:
            return None
        return self.output.shape[1], self.output.shape[2], self.output.shape[3]


@dataclass(frozen=True)
class Probe:
    """Every executed module in the order in which they finished, and the macs of the whole network."""

    executions: tuple[Execution, ...]
    macs: int


def check_input_size(input_size: Sequence[int]) -> tuple[int, int, int]:
    """(channels, height, width) as ints; ValueError for anything else."""
    size = tuple(input_size)
    if len(size) != 3 or not all(isinstance(n, int) and n > 0 for n in size):
        raise ValueError(f"input_size must be (channels, height, width), three positive integers, got {input_size!r}")
    return size[0], size[1], size[2]


def probe(model: nn.Module, input_size: Sequence[int]) -> Probe:
    """Runs one image through the model in evaluation mode and notes what every module returned.

    The pass runs without arithmetic, with meta tensors in place of the weights. A model that reads tensor values or
    holds tensors that are neither parameters nor buffers cannot run so and gets a real pass. Either way weights,
    buffers, gradients, hooks and training flags are as before; meanwhile no other thread may use the model.

    Raises:
        ValueError: a bad `input_size`, or the model's forward fails on such an image.
    """
    size = check_input_size(input_size)
    weights = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    stand_ins = {name: torch.empty_like(t, device="meta", requires_grad=False) for name, t in weights.items()}
    runs: list[tuple[Callable[[Tensor], Any], torch.device]] = [
        (lambda image: functional_call(model, stand_ins, image), torch.device("meta"))
    ]
    device = next((t.device for t in weights.values()), torch.device("cpu"))
    if device.type != "meta":
        runs.append((model, device))
    with _evaluating(model):
        for run, run_device in runs:
            try:
                return _trace(model, run, size, run_device)
            except Exception as error:
                failure = error
    raise ValueError(
        f"{type(model).__name__}: one pass over an image {[1, *size]} failed: {failure}; check input_size "
        "and that forward takes one image batch"
    ) from failure


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, was_training in training.items():
            module.training = was_training


def _trace(model: nn.Module, run: Callable[[Tensor], Any], size: tuple[int, int, int], device: torch.device) -> Probe:
    """Calls `run`, which passes an image through the model, and watches the modules."""
    executions: dict[str, Execution] = {}
    macs = spatial = 0

    def observe(name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        nonlocal macs, spatial
        macs += _module_macs(module, args, output)
        spatial += isinstance(module, nn.modules.conv._ConvNd) and max(module.kernel_size) > 1
        seen = executions.pop(name, None) or Execution(name)  # pop: a repeated module moves to its last place
        seen.calls += 1
        seen.macs_to_end, seen.spatial_to_end = macs, spatial
        seen.in_shape = tuple(args[0].shape[1:]) if args and isinstance(args[0], Tensor) else None
        if isinstance(output, Tensor):
            seen.output, seen.version, seen.node = output, output._version, output.grad_fn
        executions[name] = seen

    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    inner = [(name, module) for name, module in model.named_modules() if name]
    handles = [module.register_forward_hook(partial(observe, name)) for name, module in inner]
    try:
        # Gradients are on only to make autograd draw the graph; nothing runs backward. The image is not the leaf
        # itself: a model may normalise its input in place, which autograd forbids on leaves.
        with torch.inference_mode(False), torch.enable_grad():
            image = torch.zeros((1, *size), device=device, dtype=dtype, requires_grad=True).clone()
            source = image.grad_fn
            output = run(image)
    finally:
        for handle in handles:
            handle.remove()
    chain = _chain_nodes(output, source)
    for seen in executions.values():
        seen.is_chain = chain is None or seen.node in chain
    return Probe(tuple(executions.values()), macs)


def _module_macs(module: nn.Module, args: tuple[Any, ...], output: Any) -> int:
    """Multiply-accumulates of a convolution or linear layer (bias not counted), 0 for every other module."""
    if not isinstance(output, Tensor):
        return 0
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        entering: Tensor = args[0]
        return entering.numel() * module.weight[0].numel()  # weight [C, K / groups, *kernel]
    if isinstance(module, nn.modules.conv._ConvNd):
        return output.numel() * module.weight[0].numel()  # weight [K, C / groups, *kernel]
    return output.numel() * module.in_features if isinstance(module, nn.Linear) else 0


def _chain_nodes(output: Any, source: Any) -> set[Any] | None:
    """Autograd nodes that every path from the image to the output crosses; None if the graph does not connect the two.

    In topological order a node is on every path iff no edge jumps over it: an edge from before to behind it is part of
    a path that avoids it, and a path that avoids it has such an edge.
    """
    sinks = {t.grad_fn for t in tree_leaves(output) if isinstance(t, Tensor) and t.grad_fn is not None}
    order = _topological_order(sinks, source)
    if order is None:
        return None
    position = {node: number for number, node in enumerate(order)}
    reach = [-1] * (len(order) + 1)  # reach[u]: last reader of node u; an output is read once more, behind everything
    for node in order:
        for before, _ in node.next_functions if node is not source else ():
            if before in position:
                reach[position[before]] = max(reach[position[before]], position[node])
        if node in sinks:
            reach[position[node]] = len(order)
    chain, farthest = set(), -1
    for number, node in enumerate(order):
        if farthest <= number:
            chain.add(node)
        farthest = max(farthest, reach[number])
    return chain


def _topological_order(sinks: set[Any], source: Any) -> list[Any] | None:
    """Nodes between `source` and `sinks`, inputs before their readers; None if no sink depends on the source."""
    depends = {source: True}  # finished nodes -> do they depend on the image (weights do not)?
    order = [source]
    for sink in sinks:
        stack = [(sink, False)]
        while stack:
            node, is_expanded = stack.pop()
            if node in depends:
                continue
            inputs = [before for before, _ in node.next_functions if before is not None]
            if not is_expanded:
                stack.append((node, True))
                stack.extend((before, False) for before in inputs)
                continue
            depends[node] = any(depends[before] for before in inputs)
            if depends[node]:
                order.append(node)
    return order if len(order) > 1 else None


# ---- candidates and proposal ----------------------------------------------------------------------------------------


def list_cut_candidates(model: nn.Module, input_size: Sequence[int] = (3, 224, 224)) -> list[CutPoint]:
    """Every sensible place to cut, in execution order: stages, and the layers that containers list one by one.

    A candidate is executed once, returns one tensor [1, C, H, W] in the image's aspect ratio that nothing overwrites,
    and lies on the chain (see the module docstring). Modules with the same macs up to their end and the same output
    shape (a stage, its last layer, a norm behind it) count once, under the least nested name, the last of those.

    Args:
        model: any module that maps an image batch to anything.
        input_size: (channels, height, width) of the image.

    Raises:
        ValueError: a bad `input_size`, or the model's forward fails on such an image.
    """
    return list(plan_of(_candidates(model, probe(model, input_size), input_size)).points)


def propose_cuts(
    model: nn.Module, num_blocks: int, input_size: Sequence[int], sizes: Sequence[int] | None = None
) -> CutPlan:
    """Chooses `num_blocks` cuts where resolution or width changes, balanced by cost.

    Objective, by dynamic programming, in this order: fewest faults (a block below a quarter of an equal share of the
    network's macs; that much or more between the last cut and the first behind all convolutions larger than 1x1: only a
    head is left out); fewest cuts behind which neither width nor resolution changes; smallest sum of squared macs over
    the blocks and the rest behind the last cut; earliest cuts. Exact and deterministic.

    Args:
        model: any module that maps an image batch to anything.
        num_blocks: number of cuts.
        input_size: (channels, height, width) of the image.
        sizes: output pixels per side that each block must have; None: any.

    Raises:
        ValueError: no such choice exists (the candidates are listed), bad arguments, or the model's forward fails.
    """
    if num_blocks < 1:
        raise ValueError(f"propose_cuts: num_blocks must be >= 1, got {num_blocks}")
    if sizes is not None and len(sizes) != num_blocks:
        raise ValueError(f"propose_cuts: {num_blocks} blocks need as many sizes, got {tuple(sizes)}")
    seen = probe(model, input_size)
    candidates = _candidates(model, seen, input_size)
    chosen = _choose(candidates, seen.macs, num_blocks, sizes)
    if chosen is None:
        wanted = "" if sizes is None else f" with output sizes {tuple(sizes)} in this order"
        table = cut_table(plan_of(candidates).points) if candidates else "(no module returns one map [1, C, H, W])"
        raise ValueError(
            f"{type(model).__name__} at input_size {tuple(input_size)} cannot be cut into {num_blocks} blocks{wanted}; "
            f"ask for fewer blocks, change the sizes or input_size, or name the cuts. Possible cuts:\n{table}"
        )
    return plan_of([candidates[i] for i in chosen])


def plan_of(executions: Sequence[Execution]) -> CutPlan:
    """The plan that cuts at these modules, given in execution order."""
    points, macs_before = [], 0
    for seen in executions:
        assert seen.shape is not None
        points.append(CutPoint(seen.name, *seen.shape, macs=seen.macs_to_end - macs_before))
        macs_before = seen.macs_to_end
    return CutPlan(tuple(points))


def _candidates(model: nn.Module, seen: Probe, input_size: Sequence[int]) -> list[Execution]:
    modules = dict(model.named_modules())
    possible = [
        e
        for e in seen.executions
        if (e.calls == 1 and e.is_chain and not e.is_overwritten)
        and (e.shape is not None and _has_aspect(e.shape, input_size))
        and not isinstance(modules[e.name], nn.Identity)
        and _is_listed(e.name, modules)
    ]
    # One tensor may be returned by several modules (a stage and its last layer), and layers without macs may follow
    # that keep the shape (a norm, an activation): all of that is one place to cut.
    places: dict[tuple[Any, ...], list[Execution]] = {}
    for e in possible:
        if _is_one_stage(e, possible):
            places.setdefault((e.macs_to_end, e.shape), []).append(e)
    return [min(reversed(place), key=lambda e: e.name.count(".")) for place in places.values()]


def _has_aspect(shape: tuple[int, int, int], input_size: Sequence[int]) -> bool:
    """Tells feature maps [C, H, W] from [H, W, C] (Swin's): height and width shrink alike, to a pixel of rounding."""
    return abs(shape[1] * input_size[2] - shape[2] * input_size[1]) <= max(input_size[1:])


def _is_listed(name: str, modules: dict[str, nn.Module]) -> bool:
    """True if all parents of the module list their children as parts of equal rank; inside a layer there is no cut."""
    parts = name.split(".")
    return all(_is_container(modules[".".join(parts[:depth])]) for depth in range(1, len(parts)))


def _is_container(module: nn.Module) -> bool:
    """A list of modules, a module around such a list, or one whose children are all of one class."""
    lists = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    kinds = {type(child) for child in module.children()}
    return isinstance(module, lists) or len(kinds) == 1 or any(issubclass(kind, lists) for kind in kinds)


def _is_one_stage(e: Execution, possible: Sequence[Execution]) -> bool:
    """False for a container of several stages: a cut inside has neither the shape that enters nor that which leaves."""
    inside = (other for other in possible if other.name.startswith(e.name + "."))
    return all(other.shape in (e.shape, e.in_shape) for other in inside)


# (faults, cuts without a change, sum of squared macs, candidate numbers): compares as the objective says.
_Cost = tuple[int, int, int, tuple[int, ...]]


def _choose(
    candidates: Sequence[Execution], total_macs: int, num_blocks: int, sizes: Sequence[int] | None
) -> tuple[int, ...] | None:
    """Candidate numbers of the best cuts, or None if there are none; `propose_cuts` states the objective."""
    changes = [i + 1 == len(candidates) or e.shape != candidates[i + 1].shape for i, e in enumerate(candidates)]

    body_end = next((e.macs_to_end for e in candidates if e.spatial_to_end == candidates[-1].spatial_to_end), 0)

    def is_small(macs: int) -> bool:
        return macs * num_blocks * SMALL_BLOCK_DIVISOR < total_macs

    def extended(cost: _Cost, cut: int) -> _Cost:
        faults, unchanged, squares, cuts = cost
        macs = candidates[cut].macs_to_end - (candidates[cuts[-1]].macs_to_end if cuts else 0)
        return faults + is_small(macs), unchanged + (not changes[cut]), squares + macs**2, (*cuts, cut)

    def finished(cost: _Cost) -> _Cost:
        faults, unchanged, squares, cuts = cost
        end = candidates[cuts[-1]].macs_to_end
        misses_stages = not is_small(body_end - end)
        return faults + misses_stages, unchanged, squares + (total_macs - end) ** 2, cuts

    best: dict[int, _Cost] = {-1: (0, 0, 0, ())}  # last cut -> the best cuts up to there
    for block in range(num_blocks):
        longer: dict[int, _Cost] = {}
        for cut, e in enumerate(candidates):
            options = [extended(cost, cut) for last, cost in best.items() if last < cut]
            if options and (sizes is None or (e.shape and e.shape[1:] == (sizes[block], sizes[block]))):
                longer[cut] = min(options)
        best = longer
    return min(map(finished, best.values()))[3] if best else None
