"""The sections of a report about what was measured beside the run: study, assembled networks, comparison, device."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dna_fast import report_measured_charts as drawn
from dna_fast._files import read_json
from dna_fast.architecture import Architecture
from dna_fast.profile_table import Profile
from dna_fast.report_charts import MARKERS, Mark, legend, series
from dna_fast.report_facts import RunFacts
from dna_fast.report_html import Html, element, joined, paragraph, table

INITS = {"scratch": "from scratch", "head": "inherited, head alone", "inherited": "inherited, trained on"}
LESS = " (less is better)"
UNKNOWN = "–"


def study_section(path: Path, facts: RunFacts, name: str) -> Html:
    """`study/study.json`: how well every score ranks trained models."""
    known = _read(path, "dna_fast.study")
    lower, cost, truth = known["lower_is_better"], str(known["cost"]), str(known["truth"])
    models, agreements = known["models"], known["agreements"]
    parts: list[object] = [
        paragraph(
            f"{known['title']}: {len(models)} models, judged by {truth}. Equal {cost}: pairs of models of one bucket, at most a "
            f"factor of {1 + _number(known['bucket_width']):.3g} wide unless they were drawn from buckets. "
            f"Intervals: {known['interval']}."
        )
    ]
    parts += [paragraph(f"{remark}.", class_="note") for remark in known["remarks"]]
    rows = [
        (a["score"] + (LESS if a["score"] in lower else ""),)
        + tuple(_words(a["overall"][c]) for c in ("kendall", "spearman", "pearson"))
        + (_words(a["within"]),)
        for a in agreements
    ]
    head = ("score", "Kendall", "Spearman", "Pearson", f"Kendall at equal {cost}")
    parts.append(table(head, rows, label="agreement of scores with the truth"))
    taus = [
        (f"{a['score']}{where}", estimate, colour)
        for a in agreements
        for where, estimate, colour in (("", a["overall"]["kendall"], "s0"), (" at equal cost", a["within"], "winner"))
    ]
    parts.append(_intervals(f"{name}-tau", "Kendall's tau of every score", taus, "Kendall's tau, 95 % interval"))
    parts.append(legend([("overall", "s0", "o"), (f"at equal {cost}", "winner", "o")]))
    compared = [
        (f"{c['first']} − {c['second']}", _words(c["overall"]), _words(c["within"]), _verdict(c))
        for c in known["comparisons"]
    ]
    columns = ("difference of tau", "overall", f"at equal {cost}", "verdict at equal cost")
    parts.append(table(columns, compared, label="differences between scores"))
    for i, agreement in enumerate(agreements):
        score = agreement["score"]
        marks = []
        for b, bucket in enumerate(known["buckets"]):
            inside = [models[m] for m in bucket["models"]]
            label = f"{bucket['low']:,.4g} to {bucket['high']:,.4g} {cost}"
            x, y = ([_number(model[which]) for model in inside] for which in (score, truth))
            marks.append(Mark(label, x, y, series(b), ("o", *MARKERS)[b // 7 % 7]))
        axes = (score + (LESS if score in lower else ""), truth)
        parts.append(drawn.points(f"{name}-s{i}", f"{truth} against {score}", marks, axes, falling=score in lower))
    return joined(parts)


def assembled_section(path: Path, facts: RunFacts, name: str) -> Html:
    """`assembled/assembled.json`: sums of ratings beside whole networks."""
    known = _read(path, "dna_fast.assembled")
    networks, correction, held_out = known["networks"], known["correction"], known["held_out"]
    roles = {"fit": ("s0", "o"), "held out": ("s1", "s"), "best": ("winner", "*"), "corrected": ("s2", "D")}
    parts: list[object] = [
        paragraph(
            f"{len({tuple(n['choice']) for n in networks})} networks assembled from trained blocks, not trained further. Distance: "
            "relative L1 of the last feature from the teacher's on evaluation images; lower is better, of ratings too."
        ),
        paragraph(
            f"Correction {'taken' if correction['taken'] else 'not taken'}: {known['verdict'].removeprefix('no correction: ')}."
        ),
    ]
    estimates = [
        ("sampled networks, summed ratings", known["agreement"]["sampled"]),
        ("the search's best, summed ratings", known["agreement"]["best"]),
        ("held out, summed ratings", held_out["rating"]),
        ("held out, corrected", held_out["corrected"]),
        ("held out, difference", held_out["difference"]),
    ]
    rows = [(words, _words(estimate), estimate["why"] or UNKNOWN) for words, estimate in estimates]
    parts.append(table(("networks", "Kendall's tau", "remark"), rows, label="summed ratings against distance"))
    taus = [(words.replace("summed ", ""), estimate, "s0") for words, estimate in estimates]
    parts.append(_intervals(f"{name}-tau", "Kendall's tau of summed ratings", taus, "Kendall's tau, 95 % interval"))
    corrected = (("corrected", "corrected rating"),) if correction["taken"] else ()  # else they are the same
    for which, words in (("rating", "summed rating"), *corrected):
        marks = []
        for role, look in roles.items():
            ours = [n for n in networks if n["role"] == role]
            if ours:
                x, y = ([_number(n[key]) for n in ours] for key in (which, "distance"))
                marks.append(Mark(role, x, y, *look))
        parts.append(drawn.points(f"{name}-{which}", f"Distance against {words}", marks, (words, "distance")))
    if known["gain"] is not None:
        parts.append(
            paragraph(f"Distance of the search's best minus that of the corrected best: {_words(known['gain'])}.")
        )
    return joined(parts)


def comparison_section(path: Path, facts: RunFacts, name: str) -> Html:
    """`comparison/comparison.json`: the found network against others."""
    known = _read(path, "dna_fast.comparison")
    networks = known["networks"]
    seconds = {n.name: n.training.seconds for n in facts.networks if n.training is not None}
    rows = [
        (n["name"], n["role"], f"{n['macs']:,}", f"{n['params']:,}")
        + tuple(UNKNOWN if n[init] is None else _accuracy(n[init]) for init in INITS)
        + tuple(_seconds(seconds.get(n["name"] + suffix)) for suffix in ("", "_inherited"))
        for n in networks
    ]
    head = ("network", "role", "macs", "params", *INITS.values(), "seconds from scratch", "seconds inherited")
    found = [(words, _points(estimate), estimate["why"] or UNKNOWN) for words, estimate in known["findings"].items()]
    parts: list[object] = [
        paragraph(
            "One training of every network. Intervals of networks: Wilson, 95 %, of the evaluation images. Of differences: Student's t "
            "over the others' spread, with the sampling error of the found network's images; against one network, both sampling errors."
        ),
        table(head, rows, label="networks compared"),
        table(("difference of top-1", "points [95 %]", "remark"), found, label="differences"),
    ]
    told = [(words, estimate, "s0") for words, estimate in known["findings"].items()]
    parts.append(
        _intervals(f"{name}-d", "Differences of top-1", told, "difference of top-1 as a fraction, 95 % interval")
    )
    looks = {"found": ("winner", "*"), "random": ("s0", "o"), "uniform": ("s1", "s"), "largest": ("s2", "D")}
    for init, words in INITS.items():
        marks = []
        for role, look in looks.items():
            ours = [n for n in networks if n["role"] == role and n[init] is not None]
            if ours:
                x, y = [_number(n["macs"]) / 1e6 for n in ours], [100 * _number(n[init]["top1"]) for n in ours]
                marks.append(Mark(role, x, y, *look))
        if marks:
            axes = ("macs, millions", "top-1 in %")
            parts.append(element("h3", words))
            parts.append(drawn.points(f"{name}-{init}", f"Top-1 against macs, {words}", marks, axes))
    return joined(parts)


def device_section(path: Path, facts: RunFacts, name: str) -> Html:
    """`profile.json`: sums over layers beside whole networks, on which device."""
    profile, space = Profile.load(path), facts.costs.space
    device = table(("what", "value"), list(profile.device.items()), label="device")
    parts: list[object] = [device]
    for i, setting in enumerate(profile.settings):
        parts.append(element("h3", f"batch {setting.batch}, {setting.dtype}, {setting.implementation}"))
        fit = profile.fit(space, setting)
        if fit is None:
            parts.append(paragraph("No correction: too few whole networks of this space were measured.", class_="note"))
            continue
        rows = [
            (words, *(f"{100 * value:.1f} %" for value in (e.mean, e.worst, e.bias)))
            for words, e in (("sums over layers", fit.before), ("corrected, left out of the fit", fit.after))
        ]
        parts.append(table(("prediction", "mean error", "worst", "bias"), rows, label="errors of latencies"))
        use = "used" if fit.helps else "not used: it does not help"
        parts.append(paragraph(f"Correction: {fit.offset_us:.0f} µs + {fit.factor:.3f} × sum; {use}."))
        summed, measured = _latencies(profile, facts, setting)
        fixed = [fit.offset_us + fit.factor * x for x in summed]
        marks = [
            Mark("sum", summed, measured, "s0", "o"),
            Mark("corrected (in the fit)", fixed, measured, "winner", "D"),
        ]
        axes = ("predicted, µs", "measured, µs")
        parts.append(drawn.points(f"{name}-l{i}", "Measured against predicted latency", marks, axes, identity=True))
    return joined(parts)


def _latencies(profile: Profile, facts: RunFacts, setting: Any) -> tuple[list[float], list[float]]:
    """Sums over layers and medians of whole networks, microseconds."""
    space = facts.costs.space
    summed, measured = [], []
    for (network, own), timing in profile.networks.items():
        if own == setting and network.space_sha256 == space.sha256:
            summed.append(profile.summed_us(Architecture.from_space(space, network.candidates), setting))
            measured.append(timing.median_us)
    return summed, measured


# key, title, file in the run directory, writer
MEASURED: tuple[tuple[str, str, str, Callable[[Path, RunFacts, str], Html]], ...] = (
    ("study", "How well ratings rank", "study/study.json", study_section),
    ("assembled", "Sums of ratings and whole networks", "assembled/assembled.json", assembled_section),
    ("compared", "The found network against chance", "comparison/comparison.json", comparison_section),
    ("device", "Latency on the device", "profile.json", device_section),
)


def measured_sections(facts: RunFacts) -> list[tuple[str, str, Callable[[RunFacts, str], Html]]]:
    """The sections whose files are there. A damaged or foreign file is told in its section: the run's report stands without it."""
    return [
        (key, title, partial(_told, file, write))
        for key, title, file, write in MEASURED
        if (facts.directory / file).exists()
    ]


def _told(file: str, write: Callable[[Path, RunFacts, str], Html], facts: RunFacts, name: str) -> Html:
    try:
        return write(facts.directory / file, facts, name)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, ZeroDivisionError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        return paragraph(f"{file} is damaged ({what}); restore it, or write it anew with its command.", class_="todo")


def _read(path: Path, form: str) -> Mapping[str, Any]:
    known = read_json(path)
    if not isinstance(known, dict) or known.get("format") != form or known.get("version") != 1:
        raise ValueError(f"expected format {form!r}, version 1")
    return known


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"expected finite numbers, got {number}")
    return number


def _words(estimate: Mapping[str, Any], scale: float = 1, digits: int = 3) -> str:
    """An estimate with its interval."""
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if value is None:
        return UNKNOWN
    interval = "" if low is None else f" [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
    return f"{scale * _number(value):.{digits}f}{interval}"


def _points(estimate: Mapping[str, Any]) -> str:
    return _words(estimate, 100, 2)


def _intervals(name: str, title: str, told: Sequence[tuple[str, Mapping[str, Any], str]], xlabel: str) -> Html:
    rows = [(words, _number(e["value"]), e["low"], e["high"], c) for words, e, c in told if e["value"] is not None]
    return drawn.intervals(name, title, rows, xlabel) if rows else Html("")


def _verdict(comparison: Mapping[str, Any]) -> str:
    """As `study_report.verdict`."""
    low, high = comparison["within"]["low"], comparison["within"]["high"]
    if low is None or high is None:
        return "cannot be told"
    if low > 0:
        return f"{comparison['first']} ranks better"
    return f"{comparison['second']} ranks better" if high < 0 else "not distinguishable"


def _accuracy(known: Mapping[str, Any]) -> str:
    low, high = known["interval_95"]
    return f"{100 * _number(known['top1']):.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _seconds(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1f}"
