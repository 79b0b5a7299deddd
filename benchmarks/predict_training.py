"""What training would take on many GPUs: a calculation from counted work and assumed speeds. Nothing here is measured.

`python -m benchmarks.predict_training` prints the table of docs/benchmarks.md; options replace the assumed speeds by measured ones.

Counted: macs, parameters and features of the 16-cell space behind EfficientNet-B7. Assumed: the speeds of `Machine`; a step that is as
long as its busiest GPU's work and then its traffic, nothing overlapped; images that are always there; no checkpoint, no first steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations

from benchmarks.layout import table, three_digits
from dna_fast.cost import layer_cost, stem_cost
from dna_fast.space import SearchSpace, preset

TRAINED_IMAGES, EPOCHS = 1_281_167 - 1_216, 20  # ImageNet without the rated images; the paper's run
FORWARD_AND_BACKWARD = 3  # macs of a training step in those of a forward pass
GRADIENT_BYTES, FEATURE_BYTES = 4, 2  # float32 gradients, bfloat16 features

# EfficientNet-B7 at 224 pixels, stem and first stage with the first block: as `dna-fast train` prints its cuts.
B7_MACS = (784_399_360, 484_897_536, 603_857_280, 1_199_784_960, 1_165_719_360, 848_365_056)
B7_CHANNELS = (48, 80, 160, 224, 384, 640)


@dataclass(frozen=True)
class Work:
    """What one block costs.

    Attributes:
        teacher_macs: of the teacher's block, per image.
        student_macs: of all its cells' forward passes, mean over paths, per image.
        gradients: parameters of the drawn operators of all cells, mean over paths.
        feature_values: of the teacher's feature behind it, per image.
    """

    teacher_macs: float
    student_macs: float
    gradients: float
    feature_values: int


@dataclass(frozen=True)
class Machine:
    """GPUs and what connects them; the defaults are assumptions about eight H100 a node.

    Attributes:
        nodes, gpus: nodes, and GPUs in each.
        teacher_tmacs, student_tmacs: 10^12 multiply-accumulates per second of one GPU, forward in bfloat16 and in training. Layers of
            this kind are bound by memory, so both are a small share of what the data sheet says.
        node_gbps, network_gbps: 10^9 bytes per second that a GPU sends inside a node, and a node to another.
    """

    nodes: int = 1
    gpus: int = 8
    teacher_tmacs: float = 10.0
    student_tmacs: float = 3.0
    node_gbps: float = 300.0
    network_gbps: float = 40.0

    @property
    def all_gpus(self) -> int:
        return self.nodes * self.gpus


@dataclass(frozen=True)
class Prediction:
    """Of one placement: consecutive blocks by stage, and replicas of every stage, which share out each batch.

    Attributes:
        stages: the blocks of each.
        replicas: of every stage, over all nodes; a node holds whole sets of stages.
        balance: mean work of a GPU over that of the busiest.
        compute_s, traffic_s: of a step.
        sent_bytes: by the GPU that sends most, in a step.
        hours: of the whole run.
    """

    stages: tuple[range, ...]
    replicas: int
    balance: float
    compute_s: float
    traffic_s: float
    sent_bytes: float
    hours: float

    @property
    def words(self) -> str:
        """As `train.placement` has it."""
        return "+".join(str(len(blocks)) for blocks in self.stages) + f"x{self.replicas}"


def work_of(space: SearchSpace, teacher_macs: Sequence[int], channels: Sequence[int]) -> list[Work]:
    """Counts every block; means over paths are means over a layer's operators, as these are drawn independently."""
    found = []
    for b, block in enumerate(space.blocks):
        stem = stem_cost(space.frame) if b == 0 else {"macs": 0, "params": 0}
        macs, params = float(stem["macs"]), float(stem["params"])
        for c in range(len(block.cells)):
            for layer in space.layers(b, c):
                costs = [layer_cost(space.mbconv(layer, k), layer.in_size) for k in range(len(space.choices))]
                macs += sum(cost["macs"] for cost in costs) / len(costs)
                params += sum(cost["params"] for cost in costs) / len(costs)
        found.append(Work(teacher_macs[b], macs, params, channels[b] * space.out_size(b) ** 2))
    return found


def image_s(work: Sequence[Work], machine: Machine) -> float:
    """Seconds of one GPU for one image: teacher and students of some blocks."""
    teacher = sum(w.teacher_macs for w in work) / (machine.teacher_tmacs * 1e12)
    return teacher + sum(w.student_macs for w in work) * FORWARD_AND_BACKWARD / (machine.student_tmacs * 1e12)


def ring_bytes(values: float, ranks: int) -> float:
    """Bytes that each of `ranks` sends to add up gradients by a ring: each value travels out and back, but for its own share."""
    return 2 * (ranks - 1) / ranks * values * GRADIENT_BYTES


def partitions(blocks: int, stages: int) -> Iterator[tuple[range, ...]]:
    """All ways to cut blocks into so many stages."""
    for cuts in combinations(range(1, blocks), stages - 1):
        borders = (0, *cuts, blocks)
        yield tuple(range(borders[s], borders[s + 1]) for s in range(stages))


def predict(work: Sequence[Work], machine: Machine, batch: int) -> list[Prediction]:
    """A placement for every number of stages that divides the GPUs of a node; one stage is data parallelism.

    Args:
        batch: images of a step, over all GPUs.
    """
    numbers = [n for n in range(1, min(len(work), machine.gpus) + 1) if machine.gpus % n == 0]
    return [_predicted(work, machine, batch, stages) for stages in numbers]


def _predicted(work: Sequence[Work], machine: Machine, batch: int, stages: int) -> Prediction:
    """The cut whose busiest stage has least to do."""
    replicas = machine.all_gpus // stages
    images = batch / replicas

    def busy_s(blocks: range) -> float:
        return images * image_s(work[blocks.start : blocks.stop], machine)

    cut = min(partitions(len(work), stages), key=lambda found: max(map(busy_s, found)))
    compute_s = max(map(busy_s, cut))
    balance = sum(map(busy_s, cut)) / stages / compute_s
    features = [images * work[blocks.stop - 1].feature_values * FEATURE_BYTES for blocks in cut[:-1]]
    gradients_bytes, gradients_s = _summing(work, machine, cut, machine.gpus // stages)
    handed_on = max(features, default=0.0)
    traffic_s = gradients_s + handed_on / (machine.node_gbps * 1e9)
    hours = EPOCHS * (TRAINED_IMAGES // batch) * (compute_s + traffic_s) / 3600
    return Prediction(cut, replicas, balance, compute_s, traffic_s, gradients_bytes + handed_on, hours)


def _summing(work: Sequence[Work], machine: Machine, cut: Sequence[range], inside: int) -> tuple[float, float]:
    """(bytes sent by the GPU that sends most, seconds) of adding up gradients: a ring inside nodes, then one over nodes."""
    of_stage = [sum(w.gradients for w in work[blocks.start : blocks.stop]) for blocks in cut]
    near_s = max(ring_bytes(values, inside) for values in of_stage) / (machine.node_gbps * 1e9)
    far_s = ring_bytes(sum(of_stage), machine.nodes) / (machine.network_gbps * 1e9)
    sent = max(ring_bytes(values, inside) + ring_bytes(values / inside, machine.nodes) for values in of_stage)
    return sent, near_s + far_s


# ---- the page --------------------------------------------------------------------------------------------------------

SHOWN = ((1, 512), (4, 2048))  # nodes, and images of a step over all GPUs


def lines(machine: Machine | None = None) -> list[str]:
    """Markdown: assumptions, then a table of every placement on 8 GPUs and on 4 x 8."""
    machine = Machine() if machine is None else machine
    work = work_of(preset("dna"), B7_MACS, B7_CHANNELS)
    rows = []
    for nodes, batch in SHOWN:
        for p in predict(work, replace(machine, nodes=nodes), batch):
            figures = (
                p.compute_s * 1e3,
                p.traffic_s * 1e3,
                p.sent_bytes / 1e6,
                batch / (p.compute_s + p.traffic_s),
                p.hours,
            )
            name = f"{nodes} x {machine.gpus}, batch {batch:,}"
            rows.append([name, p.words, f"{100 * p.balance:.0f} %", *map(three_digits, figures)])
    head = ("GPUs", "placement", "balance", "work, ms", "traffic, ms", "MB sent", "images/s", "hours")
    tmacs = f"{machine.teacher_tmacs:g} TMAC/s in the teacher, {machine.student_tmacs:g} in students"
    links = f"{machine.node_gbps:g} GB/s between GPUs of a node, {machine.network_gbps:g} between nodes"
    return [
        "**Calculated, not measured**, by `python -m benchmarks.predict_training`, for 20 epochs on ImageNet, all 16 cells of the space",
        "`dna` behind EfficientNet-B7. Counted: macs, gradients of drawn operators (float32, added up by rings), features (bfloat16).",
        f"*Assumed* of a GPU: {tmacs}, whose backward pass counts as two more; of links:",
        f"{links}. A step lasts as long as its busiest GPU works and then its traffic, nothing overlapped; images",
        "are always there; no checkpoints. A placement is the blocks of each stage x replicas: 6x8 is data parallelism; stages hand the",
        "teacher's features on inside a node and work on successive batches, so none waits for another; of all cuts the best balanced is",
        "shown. Balance: mean work of a GPU over the busiest one's.",
        "",
        *table(head, rows, text_columns=2),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table, with other speeds where options give them."""
    parser = argparse.ArgumentParser(description="What training would take on many GPUs: calculated, not measured.")
    for field in fields(Machine):
        if field.name != "nodes":
            kind = int if field.name == "gpus" else float
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    print("\n".join(lines(Machine(**vars(parser.parse_args(arguments))))))


if __name__ == "__main__":
    main()
