"""The sections of a report about the tables: what the search found, and the ratings behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dna_fast import report_charts as charts
from dna_fast.architecture import Architecture, random_choice
from dna_fast.query import Query, in_words
from dna_fast.report_facts import RunFacts, SearchFacts
from dna_fast.report_html import Html, details, element, joined, paragraph, table
from dna_fast.report_sections import network_colours, todo
from dna_fast.restrictions import rules_in_words
from dna_fast.search import TWO_SIDED_95

CLOUD = 1500  # random architectures that show what the space is like
BEST = 8  # candidates of a block that are listed, with whiskers
FRONT_ROWS = 400  # of the table behind the front


def search_section(facts: RunFacts, name: str) -> Html:
    """Budgets, solutions, the front; name: of the pictures, unique in the page."""
    found, query = facts.search, facts.query()
    if found is None:
        return todo("No search yet.", f"dna-fast search {facts.directory} --max macs=…")
    asked = asked_words(found) or "no budget"
    gap = "" if found.gap is None else f", gap to the proven bound {found.gap:.2%}"
    parts: list[object] = [paragraph(f"Status {found.status}: least sum of {found.metric} under {asked}{gap}.")]
    if not found.solutions:
        rows = [(n, "none helps" if v is None else f"{v:,}") for n, v in found.smallest_feasible.items()]
        parts.append(paragraph("Nothing meets the budgets.", class_="todo"))
        return joined([*parts, table(("budget", "smallest feasible, the others held"), rows, label="feasible budgets")])
    if query is not None:
        parts.append(_front_figure(facts, query, name))
    parts.append(_solutions(found.solutions, found.metric))
    return joined(parts)


def asked_words(found: SearchFacts) -> str:
    """Budgets and rules for people; empty where there are none."""
    rules = rules_in_words(found.fix, found.forbid, found.min_differences)
    return "; ".join([*(bound_words(n, *b) for n, b in found.bounds.items()), *rules])


def bound_words(name: str, lower: int | None, upper: int | None) -> str:
    """A budget for people."""
    left = f"{lower:,} ≤ " if lower is not None else ""
    return f"{left}{name}" + (f" ≤ {upper:,}" if upper is not None else "")


def _solutions(solutions: Sequence[Mapping[str, Any]], metric: str) -> Html:
    names = [n for n in ("macs", "params", "activation_bytes") if n in solutions[0]["costs"]]
    names += [n for n in solutions[0]["costs"] if n not in names]
    rows = []
    for rank, s in enumerate(solutions, start=1):
        apart = {None: "–", True: "no", False: "yes"}[s["indistinguishable"]] if rank > 1 else "–"
        rows.append(
            (rank, f"{s['loss']:.6f}", *(f"{s['costs'].get(n, 0):,}" for n in names), apart, " | ".join(s["blocks"]))
        )
    listed = table(("rank", f"sum of {metric}", *names, "told apart", "blocks"), rows, label="solutions", marked=(0,))
    note = (
        "A block reads layers × width and the operator of every layer. “Told apart”: the difference from "
        "the winner exceeds 1.96 standard errors, of the rated images alone; – where search.json does not say."
    )
    return joined([element("h3", "Winner and alternatives"), listed, paragraph(note, class_="note")])


def baseline_marks(facts: RunFacts, query: Query) -> list[charts.Mark]:
    """The retrained networks of the space, each once, but for the winner."""
    marks: list[charts.Mark] = []
    colours = network_colours(facts)
    shown = {facts.found.arch.candidates} if facts.found is not None and facts.found.arch is not None else set()
    for network in facts.networks:
        if network is facts.found or network.arch is None or not _of_the_space(query, network.arch):
            continue
        if network.arch.candidates in shown:
            continue  # the same one from inherited weights
        shown.add(network.arch.candidates)
        loss = query.loss(network.arch.candidates or ())
        shape = charts.MARKERS[len(marks) % len(charts.MARKERS)]
        label = f"{network.name}: {loss:.4g}"
        marks.append(charts.Mark(label, [network.costs["macs"]], [loss], colours[network.name], shape))
    return marks


def _of_the_space(query: Query, arch: Architecture) -> bool:
    space, chosen = query.ratings.space, arch.candidates
    if chosen is None or len(chosen) != len(space.blocks):
        return False
    valid = all(i < space.num_candidates(b) for b, i in enumerate(chosen))
    return valid and Architecture.from_space(space, chosen).blocks == arch.blocks


def cloud(query: Query) -> tuple[NDArray[Any], NDArray[Any]]:
    """(macs, rating) of random architectures, the same for equal tables."""
    rng = np.random.Generator(np.random.Philox(0))
    drawn = [random_choice(query.costs.space, rng) for _ in range(CLOUD)]
    macs = np.array([query.costs.total(choice)["macs"] for choice in drawn])
    return macs, np.array([query.loss(choice) for choice in drawn])


def _front_figure(facts: RunFacts, query: Query, name: str) -> Html:
    found = facts.search
    assert found is not None
    if "macs" not in query.costs.names:
        return paragraph("The cost table has no macs: no front is drawn.", class_="note")
    front, scene_cloud = query.front("macs"), cloud(query)
    macs, loss = front.costs["macs"], front.loss
    best, others = found.solutions[0], found.solutions[1:]
    marks = [charts.Mark(f"exact Pareto front, {len(loss):,} points", macs, loss, "front", "-")]
    if others:
        points = ([s["costs"]["macs"] for s in others], [s["loss"] for s in others])
        marks.append(charts.Mark("alternatives" if others[1:] else "alternative", *points, "winner", "o"))
    marks += baseline_marks(facts, query)
    marks.append(charts.Mark(f"winner: {best['loss']:.4g}", [best["costs"]["macs"]], [best["loss"]], "winner", "*"))
    budget = found.bounds.get("macs", (None, None))[1]
    scene = charts.Scene(scene_cloud, marks, budget, found.metric)
    entries = [(m.label, m.colour, m.shape) for m in marks] + [(f"{CLOUD:,} random architectures", "cloud", "o")]
    if budget is not None:
        entries.append((f"budget {budget:,} macs", "budget", "--"))
    caption = element(
        "figcaption",
        "Rating against multiply-accumulates. The front is exact and complete: nothing in the space is both cheaper and "
        "better rated than a point of it. Other budgets than macs, if any, do not narrow it.",
    )
    picture = charts.front(name, "Rating against macs: Pareto front, winner, alternatives, baselines", scene)
    return element("figure", picture, charts.legend(entries), caption, _front_table(query, front))


def _front_table(query: Query, front: Any) -> Html:
    total = len(front.loss)
    shown = np.unique(np.linspace(0, total - 1, min(total, FRONT_ROWS)).round().astype(int)).tolist()
    rows = [
        (
            f"{int(front.costs['macs'][i]):,}",
            f"{float(front.loss[i]):.6f}",
            " | ".join(in_words(query.ratings.space, front.choice[i].tolist())),
        )
        for i in shown
    ]
    summary = f"The front as a table ({len(rows):,} of {total:,} points)"
    return details(summary, table(("macs", "rating", "blocks"), rows, label="Pareto front"))


def ratings_section(facts: RunFacts, name: str) -> Html:
    """A picture and a table per block."""
    if facts.ratings is None:
        return todo("No ratings yet.", f"dna-fast rate {facts.directory}")
    metric = facts.metric
    losses, errors = facts.ratings.losses(metric), facts.ratings.standard_errors(metric)
    figures = [_block_figure(facts, b, losses[b], errors[b], f"{name}-{b}") for b in range(len(losses))]
    width = "the chosen architecture's input width" if facts.winner else "the block's narrowest input"
    note = (
        f"Each dot is a candidate of a block: its {metric} (lower is better) against its macs at {width}; colours are cells "
        "(layers × width). Candidates that would cover each other are drawn once. Whiskers: 1.96 standard errors of the "
        f"{BEST} best and of the chosen one ★, over the rated images. For differences they are taken for independent, which "
        "overstates them, since all candidates were rated on the same images."
    )
    return joined([paragraph(note), element("div", *figures, class_="grid")])


def _block_figure(facts: RunFacts, b: int, losses: NDArray[np.float64], errors: NDArray[np.float64], name: str) -> Html:
    space = facts.costs.space
    chosen, row = _chosen(facts, b)
    macs = facts.costs.costs["macs"][b][row] if "macs" in facts.costs.names else np.zeros(len(losses), np.int64)
    cells = np.searchsorted(
        [space.cell_offset(b, c) for c in range(len(space.blocks[b].cells))], np.arange(len(losses)), side="right"
    )
    best = np.argsort(losses, kind="stable")[:BEST].tolist()
    listed = best if chosen is None or chosen in best else [*best, chosen]
    scene = charts.BlockScene(macs, losses, errors, cells - 1, listed, chosen)
    shapes = [f"{cell.depth} × {cell.width}" for cell in space.blocks[b].cells]
    key = [(shape, charts.series(c), "o") for c, shape in enumerate(shapes)]
    picture = charts.block_ratings(name, f"Block {b}: rating against macs of every candidate", scene)
    rows = [
        (
            int(np.sum(losses < losses[i])) + 1,
            f"{losses[i]:.5f}",
            f"{errors[i]:.5f}" if np.isfinite(errors[i]) else "–",
            f"{macs[i]:,}",
            _candidate_words(facts, b, i),
        )
        for i in listed
    ]
    best_table = table(
        ("rank", "rating", "standard error", "macs", "layers × width, operators"),
        rows,
        label=f"best candidates of block {b}",
        marked=[i for i, candidate in enumerate(listed) if candidate == chosen],
    )
    head = element("h3", f"Block {b}: {len(losses):,} candidates")
    behind = details("Best candidates as a table", best_table)
    return element("figure", head, picture, charts.legend(key), verdict(losses, errors, chosen), behind)


def verdict(losses: NDArray[np.float64], errors: NDArray[np.float64], chosen: int | None) -> Html:
    """How many candidates the ratings cannot tell apart from the chosen one."""
    if chosen is None:
        return element("figcaption", "No search yet: none is chosen.")
    rank = int(np.sum(losses < losses[chosen])) + 1
    place = f"Chosen: rank {rank:,} of {len(losses):,} by rating."
    if not np.isfinite(errors).all():
        return element("figcaption", f"{place} Standard errors are not known.")
    near = np.abs(losses - losses[chosen]) <= TWO_SIDED_95 * np.sqrt(errors**2 + errors[chosen] ** 2)
    near[chosen] = False
    words = f"Others that the ratings cannot tell apart from it: {int(near.sum()):,}"
    return element("figcaption", f"{place} {words} (within 1.96 standard errors of the difference).")


def _candidate_words(facts: RunFacts, b: int, index: int) -> str:
    cell, path = facts.costs.space.candidate(b, index)
    shape = facts.costs.space.blocks[b].cells[cell]
    return f"{shape.depth} × {shape.width}: {' '.join(facts.costs.space.choices[op].name for op in path)}"


def _chosen(facts: RunFacts, b: int) -> tuple[int | None, int]:
    """(chosen candidate of a block, row of the cost table that its input has)."""
    query, arch = facts.query(), facts.winner
    if query is None or arch is None or not _of_the_space(query, arch) or arch.candidates is None:
        return None, 0
    return arch.candidates[b], facts.costs.space.input_widths(b).index(arch.blocks[b][0].in_channels)
