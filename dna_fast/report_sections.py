"""The sections of a report about networks and training: result, architecture, teacher, losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dna_fast import report_charts as charts
from dna_fast.architecture import Architecture
from dna_fast.cost import layer_cost
from dna_fast.report import in_units
from dna_fast.report_facts import RunFacts, Score, Training
from dna_fast.report_html import Html, details, element, joined, paragraph, table
from dna_fast.space import MBConvSpec

UNKNOWN = "–"


def todo(what: str, command: str, do: str = "Make it with") -> Html:
    """What is missing and what makes it."""
    return element("p", f"{what} {do}: ", element("code", command), class_="todo")


def percent(score: Score) -> str:
    """As `recipe.Accuracy` is printed."""
    return f"{100 * score.top1:.1f} % [{100 * score.low:.1f}, {100 * score.high:.1f}]"


def network_colours(facts: RunFacts) -> dict[str, str]:
    """The colour of every network, the same in all pictures."""
    others = [n.name for n in facts.networks if n is not facts.found]
    colours = {name: charts.series(i + 1) for i, name in enumerate(others)}
    return {"teacher": "s0"} | colours | ({} if facts.found is None else {facts.found.name: "winner"})


# ---- result ----------------------------------------------------------------------------------------------------------


def headline(facts: RunFacts) -> str:
    """The run in a sentence or two, with its numbers."""
    if facts.search is None:
        return f"This run is not finished: {_progress(facts)}."
    if not facts.search.solutions:
        return f"No architecture of {facts.costs.space.summary()} meets the budgets."
    costs = facts.search.solutions[0]["costs"]
    counted = [f"{in_units(costs[name])} {name}" for name in ("macs", "params") if name in costs]
    network = f"the found network has {' and '.join(counted) or 'the costs below'}"
    teacher = facts.teacher
    if teacher is not None and "macs" in costs:
        network += f" (its teacher has {teacher.macs / max(costs['macs'], 1):.3g} times as many macs)"
    found = facts.found
    if found is None or found.training is None:
        return f"Of {_architectures(facts)} architectures {network}; it is not retrained yet."
    reached = f"it reaches {percent(found.training.score)} top-1"
    if teacher is not None and teacher.training is not None:
        reached += f", the teacher {percent(teacher.training.score)}"
    return f"Of {_architectures(facts)} architectures {network}; trained from scratch {reached} (95 % intervals)."


def _architectures(facts: RunFacts) -> str:
    count = facts.costs.space.num_architectures
    return f"{count:,}" if count < 10**9 else f"{count:.2e}" if count < 10**300 else "very many"


def _progress(facts: RunFacts) -> str:
    if facts.ratings is not None:
        return "all candidates are rated, the search is to come"
    if facts.supernet is None:
        return "the supernet is not trained yet"
    return f"{facts.supernet.epochs} of {facts.config.train.epochs} epochs of the supernet are trained"


def result_section(facts: RunFacts, name: str) -> Html:
    """Costs and accuracies beside each other."""
    trained = [n for n in facts.networks if n.training is not None]
    parts: list[object] = []
    if facts.winner is not None and facts.found is None:
        parts.append(todo("The found network is not retrained yet.", f"dna-fast retrain {facts.directory}"))
        if any(n.name == "found" for n in trained):
            parts.append(paragraph("The network named “found” below is of an earlier search.", class_="note"))
    elif facts.winner is None:
        parts.append(todo("No network yet.", f"dna-fast search {facts.directory} --max macs=…"))
    scores = [(n.name, n.training.score, n is facts.found) for n in trained if n.training is not None]
    if facts.teacher is not None and facts.teacher.training is not None:
        scores.append(("teacher", facts.teacher.training.score, False))
    if scores:
        colours = network_colours(facts)
        rows = [(n, s.top1, s.low, s.high, colours[n]) for n, s, _ in scores]
        caption = (
            "Wilson intervals: the sampling error of the evaluation images. The spread between training runs of other "
            "seeds is not in them."
        )
        parts.append(element("figure", charts.accuracies(name, rows), element("figcaption", caption)))
        parts.append(_overlap_words(facts, scores))
    return joined([_network_table(facts), *parts])


def _network_table(facts: RunFacts) -> Html:
    rows: list[tuple[str, ...]] = []
    marked: list[int] = []
    for network in facts.networks:
        if network is facts.found:
            marked.append(len(rows))
        rows.append(_network_row(network.name, network.costs, network.training))
    if facts.found is None and facts.search is not None and facts.search.solutions:
        marked.append(len(rows))
        rows.append(_network_row("found, not retrained", facts.search.solutions[0]["costs"], None))
    if facts.teacher is not None:
        rows.append(_network_row("teacher", {"macs": facts.teacher.macs}, facts.teacher.training))
    head = ("network", "macs", "params", "activation bytes", "top-1, 95 % interval", "correct", "trained in")
    return table(head, rows, label="networks", marked=marked) if rows else Html("")


def _network_row(name: str, costs: Mapping[str, int], training: Training | None) -> tuple[str, ...]:
    numbers = (f"{costs[n]:,}" if n in costs else UNKNOWN for n in ("macs", "params", "activation_bytes"))
    if training is None:
        return (name, *numbers, UNKNOWN, UNKNOWN, UNKNOWN)
    score = training.score
    return (name, *numbers, percent(score), f"{score.correct:,} of {score.total:,}", f"{training.seconds:,.0f} s")


def _overlap_words(facts: RunFacts, scores: Sequence[tuple[str, Score, bool]]) -> Html:
    """Whether the found network's interval tells it from the others."""
    found = next((score for _, score, chosen in scores if chosen), None)
    if found is None:
        return Html("")
    same = [name for name, score, chosen in scores if not chosen and score.overlaps(found)]
    better = [name for name, s, chosen in scores if not chosen and not s.overlaps(found) and s.top1 < found.top1]
    worse = [name for name, s, chosen in scores if not chosen and not s.overlaps(found) and s.top1 > found.top1]
    words = []
    if better:
        words.append(f"The found network is more accurate than {', '.join(better)}: the intervals lie apart.")
    if worse:
        words.append(f"The found network is less accurate than {', '.join(worse)}: the intervals lie apart.")
    if same:
        words.append(
            f"The found network’s interval overlaps that of {', '.join(same)}: {found.total:,} evaluation images show no difference."
        )
    return paragraph(" ".join(words))


# ---- architecture ----------------------------------------------------------------------------------------------------


def architecture_section(facts: RunFacts) -> Html:
    """The winner drawn, the other networks for those who ask."""
    if facts.winner is None:
        return todo("No architecture yet.", f"dna-fast search {facts.directory} --max macs=…")
    note = (
        "Every box is an inverted residual (MBConv) layer: kernel, expansion, channels in → out, stride (/2), "
        "squeeze-excite channels, + where it has a residual. The upper edge’s colour is the kernel’s size."
    )
    others = [
        details(f"{n.name}, drawn", drawn(n.arch))
        for n in facts.networks
        if n.arch is not None and n.arch.blocks != facts.winner.blocks
    ]
    return joined(
        [paragraph(note), drawn(facts.winner), details("Layers as a table", _layer_table(facts.winner)), *others]
    )


def drawn(arch: Architecture) -> Html:
    """A network as boxes in the order of its layers."""
    frame = arch.frame
    size = frame.stem_size
    parts = [_box("stem", f"{frame.resolution} → {size} px", [_layer("3×3", f"3 → {frame.stem_width}", "conv, ds", 3)])]
    for b, layers in enumerate(arch.blocks):
        before, boxes = size, []
        for spec in layers:
            size = -(-size // spec.stride)
            boxes.append(_layer(*_layer_words(spec), spec.kernel))
        parts.append(_box(f"block {b}", f"{before} → {size} px" if before != size else f"{size} px", boxes))
    last = arch.blocks[-1][-1].out_channels
    head = [_layer("1×1", f"{last} → {frame.head_channels}", f"pool, {frame.num_classes} classes", 1)]
    return element("div", *parts, _box("head", f"{size} px", head), class_="net")


def _box(name: str, size: str, layers: Sequence[Html]) -> Html:
    return element("div", element("h4", f"{name} · {size}"), element("div", *layers, class_="lys"), class_="blk")


def _layer(title: str, channels: str, more: str, kernel: int) -> Html:
    return element("div", element("b", title), f"{channels}", element("br"), more, class_=f"ly k{kernel}")


def _layer_words(spec: MBConvSpec) -> tuple[str, str, str]:
    expansion = f"{spec.mid_channels / spec.in_channels:.3g}"
    stride = f" /{spec.stride}" if spec.stride != 1 else " +" if spec.has_residual else ""
    squeeze = f"SE {spec.se_channels}" if spec.se_channels else "no SE"
    return f"{spec.kernel}×{spec.kernel} · e{expansion}", f"{spec.in_channels} → {spec.out_channels}{stride}", squeeze


def _layer_table(arch: Architecture) -> Html:
    rows, size = [], arch.frame.stem_size
    for b, layers in enumerate(arch.blocks):
        for i, s in enumerate(layers):
            cost = layer_cost(s, size)
            shape = (s.kernel, s.stride, s.in_channels, s.mid_channels, s.out_channels, s.se_channels)
            rows.append((f"{b}.{i}", *shape, size, f"{cost['macs']:,}", f"{cost['params']:,}"))
            size = -(-size // s.stride)
    head = ("layer", "kernel", "stride", "in", "mid", "out", "SE", "input px", "macs", "params")
    return table(head, rows, label="layers of the found network")


# ---- training --------------------------------------------------------------------------------------------------------


def teacher_section(facts: RunFacts) -> Html:
    """The table of cuts."""
    teacher = facts.teacher
    if teacher is None:
        return todo("No teacher yet.", f"dna-fast train {facts.directory}")
    rows = [
        (
            b,
            p["name"],
            p["channels"],
            f"{p['height']} × {p['width']}",
            f"{p['macs']:,}",
            f"{p['macs'] / max(teacher.macs, 1):.1%}",
        )
        for b, p in enumerate(teacher.points)
    ]
    what = f"Weights: {teacher.source}; {teacher.macs:,} macs per image, batch norms in mode {teacher.bn}."
    head = ("block", "ends behind", "channels", "feature map", "macs", "of the teacher")
    return joined([paragraph(what), table(head, rows, label="cuts of the teacher")])


def losses_section(facts: RunFacts, name: str) -> Html:
    """Losses of the supernet per block, and of every classifier."""
    parts: list[object] = [element("h3", "Supernet")]
    supernet = facts.supernet
    if supernet is None or not len(supernet.losses):
        parts.append(todo("The supernet has not finished an epoch yet.", f"dna-fast train {facts.directory}"))
    else:
        if supernet.epochs < facts.config.train.epochs:
            words = f"{supernet.epochs} of {facts.config.train.epochs} epochs are trained."
            parts.append(todo(words, f"dna-fast train {facts.directory}", "Go on with"))
        parts.append(_supernet_figure(facts, f"{name}-s"))
    trainings = {n.name: n.training for n in facts.networks if n.training is not None}
    if facts.teacher is not None and facts.teacher.training is not None:
        trainings = {"teacher": facts.teacher.training, **trainings}
    trainings = {n: t for n, t in trainings.items() if len(t.loss.epochs)}
    if trainings:
        parts += [element("h3", "Classifiers"), _classifier_figure(trainings, network_colours(facts), f"{name}-c")]
    return joined(parts)


def _supernet_figure(facts: RunFacts, name: str) -> Html:
    supernet = facts.supernet
    assert supernet is not None
    epochs = np.arange(1, len(supernet.losses) + 1, dtype=np.float64)
    first = np.where(supernet.losses[0] > 0, supernet.losses[0], 1.0)
    lines = []
    for b in range(supernet.losses.shape[1]):
        fine = supernet.detail[b] if supernet.detail else None
        detail = None if fine is None else (fine.epochs, fine.values / first[b])
        lines.append(charts.Line(f"block {b}", epochs, supernet.losses[:, b] / first[b], charts.series(b), detail))
    finer = " Faint: means of neighbouring rows of logs/supernet.csv." if supernet.detail else ""
    caption = (
        f"Training loss of every block, mean of an epoch, relative to its first epoch’s. {supernet.steps:,} steps in "
        f"{supernet.seconds:,.0f} s.{finer}"
    )
    picture = charts.losses(name, "Training loss of the supernet by block", lines, "loss / first epoch’s")
    rows = [(epoch, *(f"{x:.5f}" for x in row)) for epoch, row in enumerate(supernet.losses, start=1)]
    head = ("epoch", *(f"block {b}" for b in range(supernet.losses.shape[1])))
    behind = details("Losses as a table", table(head, rows, label="losses of the supernet"))
    return element("figure", picture, element("figcaption", caption), behind)


def _classifier_figure(trainings: Mapping[str, Training], colours: Mapping[str, str], name: str) -> Html:
    lines = []
    for n, t in trainings.items():
        detail = None if t.detail is None else (t.detail.epochs, t.detail.values)
        lines.append(charts.Line(n, t.loss.epochs, t.loss.values, colours[n], detail))
    finer = " Faint: means of neighbouring rows of the logs." if any(line.detail for line in lines) else ""
    caption = f"Training loss of every network trained here, mean of an epoch.{finer}"
    picture = charts.losses(name, "Training loss of the classifiers", lines, "training loss")
    longest = max((t.loss for t in trainings.values()), key=lambda curve: len(curve.epochs))
    by_epoch = [dict(zip(t.loss.epochs.tolist(), t.loss.values.tolist(), strict=True)) for t in trainings.values()]
    rows = [
        (f"{epoch:.0f}", *(f"{values[epoch]:.5f}" if epoch in values else UNKNOWN for values in by_epoch))
        for epoch in longest.epochs.tolist()
    ]
    behind = details("Losses as a table", table(("epoch", *trainings), rows, label="losses of the classifiers"))
    return element("figure", picture, element("figcaption", caption), behind)
