"""Derives tests/golden/golden.json from docs/semantics.md alone: plain loops, one convolution at a time, no dna_fast.

python tests/golden/derive.py > tests/golden/golden.json
"""

import itertools
import json
import math

FRAME = {
    "stem_channels": 7,
    "stem_width": 5,
    "stem_stride": 2,
    "head_channels": 16,
    "num_classes": 5,
    "resolution": 17,  # odd on purpose: 17, 9, 5, 3
    "se_ratio": 0.25,
    "padding": "symmetric",
    "bn_eps": 1e-5,
}
CHOICES = [{"kernel": 3, "expand_ratio": 4}, {"kernel": 5, "expand_ratio": 2}]
BLOCKS = [
    {"stride": 2, "cells": [{"depth": 1, "width": 6}, {"depth": 2, "width": 10}]},
    {"stride": 2, "cells": [{"depth": 2, "width": 8}, {"depth": 1, "width": 12}]},
]
# Eighths add up without rounding, so equal sums are ties: -0.25 + 0.25 = -0.125 + 0.125. Published ratings can be
# negative too.
LOSSES = [[1.0, 0.75, 0.5, -0.25, 0.5, -0.125], [0.875, 0.25, 0.125, 0.5, 1.25, 1.0]]
COSTS = ["params", "macs", "macs_official", "activation_bytes"]


def paths(depth):
    return list(itertools.product(range(len(CHOICES)), repeat=depth))


CANDIDATES = [[(c, p) for c, cell in enumerate(block["cells"]) for p in paths(cell["depth"])] for block in BLOCKS]


class Count:
    """Counts one convolution after the other."""

    def __init__(self):
        self.params = self.macs = self.bn = self.bytes = 0

    def conv(self, cin, cout, kernel, groups, size, stride=1, waiting=0):
        out_size = math.ceil(size / stride)
        weights = cout * (cin // groups) * kernel * kernel
        self.params += weights + 2 * cout  # and BN
        self.macs += weights * out_size**2
        self.bn += cout * out_size**2
        self.bytes = max(self.bytes, 4 * (cin * size**2 + cout * out_size**2 + waiting))
        return out_size

    def se(self, channels, reduced):
        if reduced:
            self.params += channels * reduced + reduced + reduced * channels + channels
            self.macs += channels * reduced + reduced * channels

    def stem(self):
        width, size = FRAME["stem_channels"], FRAME["resolution"]
        size = self.conv(3, width, 3, 1, size, FRAME["stem_stride"])
        self.conv(width, width, 3, width, size)
        self.se(width, round(width * FRAME["se_ratio"]))
        self.conv(width, FRAME["stem_width"], 1, 1, size)  # no residual: 7 is not 5
        return size

    def mbconv(self, cin, nominal, cout, choice, stride, size):
        mid, reduced = nominal * choice["expand_ratio"], round(nominal * FRAME["se_ratio"])
        waiting = cin * size**2 if stride == 1 and cin == cout else 0
        self.conv(cin, mid, 1, 1, size)  # reads what waits
        size = self.conv(mid, mid, choice["kernel"], mid, size, stride, waiting)
        self.se(mid, reduced)
        self.conv(mid, cout, 1, 1, size, waiting=waiting)
        return size

    def block(self, b, candidate, cin, size):
        cell, path = CANDIDATES[b][candidate]
        width = BLOCKS[b]["cells"][cell]["width"]
        nominal = FRAME["stem_width"] if b == 0 else BLOCKS[b - 1]["cells"][0]["width"]
        for i, choice in enumerate(path):
            size = self.mbconv(cin, nominal, width, CHOICES[choice], 1 if i else BLOCKS[b]["stride"], size)
            cin = nominal = width
        return cin, size

    def head(self, cin, size):
        self.conv(cin, FRAME["head_channels"], 1, 1, size)
        self.params += FRAME["head_channels"] * FRAME["num_classes"] + FRAME["num_classes"]
        self.macs += FRAME["head_channels"] * FRAME["num_classes"]
        self.pooled = FRAME["head_channels"] * size**2

    def costs(self):
        official = self.macs + 2 * self.bn + getattr(self, "pooled", 0)
        return dict(zip(COSTS, [self.params, self.macs, official, self.bytes], strict=True))


def network(choice):
    """Costs of the whole network, counted in one go."""
    count = Count()
    width, size = FRAME["stem_width"], count.stem()
    for b, candidate in enumerate(choice):
        width, size = count.block(b, candidate, width, size)
    count.head(width, size)
    return count.costs()


def tables():
    """name -> block -> row (input width, ascending) -> candidate; the stem in block 0, the head in the last block."""
    result = {name: [] for name in COSTS}
    size = Count().stem()
    for b, block in enumerate(BLOCKS):
        before = {FRAME["stem_width"]} if b == 0 else {cell["width"] for cell in BLOCKS[b - 1]["cells"]}
        rows = []
        for width in sorted(before):
            row = []
            for candidate in range(len(CANDIDATES[b])):
                count = Count()
                if b == 0:
                    count.stem()
                out = count.block(b, candidate, width, size)
                if b == len(BLOCKS) - 1:
                    count.head(*out)
                row.append(count.costs())
            rows.append(row)
        for name in COSTS:
            result[name].append([[costs[name] for costs in row] for row in rows])
        size = math.ceil(size / block["stride"])
    return result


def architectures():
    """All, in lexicographic order."""
    for choice in itertools.product(*(range(len(c)) for c in CANDIDATES)):
        yield {"choice": list(choice), "loss": LOSSES[0][choice[0]] + LOSSES[1][choice[1]], "costs": network(choice)}


def within(costs, budgets):
    return all(low <= costs[name] and costs[name] <= high for name, (low, high) in budgets.items())


def best(budgets, top=1):
    """The best first; sorted() is stable, so equal losses stay in lexicographic order."""
    return sorted((a for a in ALL if within(a["costs"], budgets)), key=lambda a: a["loss"])[:top]


def smallest_feasible(budgets):
    """Per budget the least upper end that some architecture meets, the others held."""
    result = {}
    for name, (low, _) in budgets.items():
        others = {other: bounds for other, bounds in budgets.items() if other != name}
        fitting = [a["costs"][name] for a in ALL if within(a["costs"], others) and a["costs"][name] >= low]
        result[name] = min(fitting, default=None)
    return result


def front(name):
    """Undominated (cost, loss), by cost; of equal points the first choice."""
    points = []
    for a in sorted(ALL, key=lambda a: (a["costs"][name], a["loss"])):
        if not points or a["loss"] < points[-1]["loss"]:
            points.append({"choice": a["choice"], "loss": a["loss"], name: a["costs"][name]})
    return points


ALL = list(architectures())


def searches():
    """Questions and their answers, budgets as inclusive [lower, upper]."""
    order = {name: sorted(a["costs"][name] for a in ALL) for name in COSTS}
    half = {name: values[len(values) // 2] for name, values in order.items()}
    questions = [
        {},
        {"macs": [0, half["macs"]]},
        {"macs": [0, half["macs"] * 9 // 10]},
        {"macs": [0, order["macs"][0]]},
        {"params": [0, half["params"]], "macs_official": [0, half["macs_official"]]},
        {"activation_bytes": [0, half["activation_bytes"]], "macs": [0, half["macs"]]},
        {"macs": [half["macs"], order["macs"][-1]]},
        {"macs": [half["macs"], order["macs"][-1]], "activation_bytes": [0, order["activation_bytes"][0]]},
        {"macs": [0, order["macs"][0] - 1]},
        {"macs": [0, order["macs"][0] - 1], "params": [0, order["params"][3]]},
    ]
    answers = []
    for budgets in questions:
        found = best(budgets, top=3)
        infeasible = {} if found else {"smallest_feasible": smallest_feasible(budgets)}
        answers.append({"budgets": budgets, "top_3": found, **infeasible})
    return answers


def golden():
    return {
        "space": {"name": "golden", "choices": CHOICES, "blocks": BLOCKS, "frame": FRAME},
        "losses": LOSSES,
        "candidates": [[[cell, list(path)] for cell, path in block] for block in CANDIDATES],
        "labels": [[block["cells"][cell]["width"] for cell, _ in CANDIDATES[b]] for b, block in enumerate(BLOCKS)],
        "num_architectures": len(ALL),
        "costs": tables(),
        "architectures": ALL,
        "searches": searches(),
        "front_macs": front("macs"),
        "front_activation_bytes": front("activation_bytes"),
    }


def text():
    """The file: one line per value of the outermost lists, so that a change can be read."""
    lines = []
    for key, value in golden().items():
        many = isinstance(value, list)
        body = "[\n  " + ",\n  ".join(json.dumps(v) for v in value) + "\n ]" if many else json.dumps(value)
        lines.append(f" {json.dumps(key)}: {body}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    print(text(), end="")
