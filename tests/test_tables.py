"""Tables: what they hold, that files give back what was saved, and that everything wrong is refused in words."""

import json
import random

import numpy as np
import pytest

from dna_fast import tables
from dna_fast.cost import cost_table
from dna_fast.space import Block, Cell, Choice, Frame, SearchSpace
from dna_fast.tables import METRICS, CostTable, RatingTable

SPACE = SearchSpace(
    "small",
    (Choice(3, 2), Choice(5, 4)),
    (Block(2, (Cell(1, 8), Cell(2, 6))), Block(1, (Cell(3, 12), Cell(1, 4)))),  # 6 and 10 candidates
    Frame(stem_channels=8, stem_width=4, head_channels=16, num_classes=3, resolution=16),
)
RNG = np.random.default_rng(7)
LOSSES = [RNG.normal(size=6), RNG.normal(size=10)]
RATINGS = [
    np.array(
        [tuple(row) for row in np.abs(RNG.normal(size=(n, 8)))],
        dtype=[(f, float) for m in METRICS for f in (m, f"{m}_se")],
    )
    for n in (6, 10)
]


def ratings(**changes):
    return RatingTable(**{"space": SPACE, "blocks": RATINGS, "metadata": {"mode": "trie", "batch_size": 64}} | changes)


def same_costs(a, b):
    assert a.space == b.space
    assert a.names == b.names
    assert a.reduce == b.reduce
    assert a.metadata == b.metadata
    for name in a.names:
        for left, right in zip(a.costs[name], b.costs[name], strict=True):
            np.testing.assert_array_equal(left, right)
            assert left.dtype == right.dtype == np.int64


# ---- costs ----------------------------------------------------------------------------------------------------------


def test_costs_file_round_trip(tmp_path):
    table = CostTable(
        SPACE, {"macs": [[1, 2, 3, 4, 5, 2**40], np.arange(20).reshape(2, 10)]}, {"macs": "sum"}, {"by": "hand"}
    )
    table.save(tmp_path / "costs.npz")
    same_costs(CostTable.load(tmp_path / "costs.npz"), table)
    assert [p.name for p in tmp_path.iterdir()] == ["costs.npz"]  # nothing left aside


def test_file_is_what_the_documentation_says(tmp_path):
    table = cost_table(SPACE)
    table.save(tmp_path / "costs.npz")
    with np.load(tmp_path / "costs.npz", allow_pickle=False) as archive:
        assert sorted(archive.files) == ["block_0", "block_1", "metadata"]
        assert archive["block_1"].shape == (2, 10)
        assert archive["block_1"].dtype.names == table.names
        metadata = json.loads(archive["metadata"].tobytes())
    assert metadata["format"] == "dna_fast.costs"
    assert metadata["version"] == 1
    assert metadata["space"] == SPACE.to_dict()
    assert metadata["space_sha256"] == SPACE.sha256


def test_total_reads_the_row_of_the_chosen_neighbour():
    second = np.arange(20).reshape(2, 10) * 10
    costs = {"a": [[[1, 2, 3, 4, 5, 6]], second], "peak": [[[1, 2, 3, 4, 5, 60]], second]}
    table = CostTable(SPACE, costs, {"a": "sum", "peak": "max"})
    assert table.total([0, 3]) == {"a": 1 + 130, "peak": 130}  # width 8 is the second smallest: row 1
    assert table.total([5, 3]) == {"a": 6 + 30, "peak": 60}  # width 6: row 0


def test_add_latency_without_pairwise_term():
    table = cost_table(SPACE).add("latency_us", [np.arange(6, dtype=np.int32), np.arange(10, dtype=np.uint8)])
    assert table.names[-1] == "latency_us"
    assert table.reduce["latency_us"] == "sum"
    assert table.costs["latency_us"][1].shape == (2, 10)
    assert table.total([5, 9])["latency_us"] == 14


def test_arrays_are_the_tables_own():
    given = np.arange(6)
    table = CostTable(SPACE, {"a": [given, np.zeros(10, int)]}, {"a": "sum"})
    given[0] = 100
    assert table.costs["a"][0][0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        table.costs["a"][0][0, 0] = 1


def test_labels():
    assert [block.tolist() for block in cost_table(SPACE).labels] == [[8] * 2 + [6] * 4, [12] * 8 + [4] * 2]


ZEROS = [np.zeros(6, int), np.zeros(10, int)]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (ZEROS[:1], "needs one array per block, 2, got 1"),
        ([ZEROS[0], np.zeros(9, int)], r"block 1 must be \[input widths, candidates\] = \[2, 10\], got \[9\]"),
        ([ZEROS[0], np.zeros((1, 10), int)], r"= \[2, 10\], got \[1, 10\]"),
        ([ZEROS[0], np.zeros(10)], "must be whole numbers, got float64; round up and convert to int64"),
        ([ZEROS[0], np.zeros(10, bool)], "must be whole numbers, got bool"),
        ([[0, 0, -3, 0, 0, 0], ZEROS[1]], "block 0 must be >= 0, got -3 for candidate 2"),
        ([ZEROS[0], np.full(10, 2**63, np.uint64)], "brings the sum to 9223372036854775808, more than int64 holds"),
        ([np.full(6, 2**62), np.full(10, 2**62)], "block 1 brings the sum to 9223372036854775808"),
    ],
    ids=["blocks", "candidates", "rows", "float", "bool", "negative", "uint64", "overflow"],
)
def test_costs_refused(arrays, message):
    with pytest.raises(ValueError, match=message):
        CostTable(SPACE, {"a": arrays}, {"a": "sum"})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CostTable(SPACE, {"a": ZEROS}, {"b": "sum"}), "must name the same costs"),
        (lambda: CostTable(SPACE, {}, {}), "at least one"),
        (lambda: CostTable(SPACE, {"a": ZEROS}, {"a": "mean"}), "must be one of sum, max, got 'mean'"),
        (lambda: CostTable(SPACE, {"a": ZEROS}, {"a": "sum"}, {"space": 1}), "table's own keys, got space; rename"),
        (lambda: cost_table(SPACE).add("macs", ZEROS), "got 'macs'; choose another name"),
        (lambda: cost_table(SPACE).total([0]), r"one candidate per block, 2, got \[0\]"),
        (lambda: cost_table(SPACE).total([0, 10]), "candidates run from 0 to 9, got 10"),
    ],
    ids=["names", "none", "reduce", "own-key", "taken", "blocks", "candidate"],
)
def test_costs_calls_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- ratings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_ratings_file_round_trip(tmp_path, metric):
    table = ratings(metric=metric)
    table.save(tmp_path / "deep" / "ratings.npz")
    again = RatingTable.load(tmp_path / "deep" / "ratings.npz")
    assert (again.space, again.metric, again.metadata) == (SPACE, metric, {"mode": "trie", "batch_size": 64})
    for block, given in zip(again.blocks, RATINGS, strict=True):
        np.testing.assert_array_equal(block, given)
    for b in range(2):
        np.testing.assert_array_equal(again.losses()[b], RATINGS[b][metric])
        np.testing.assert_array_equal(again.losses("mse")[b], RATINGS[b]["mse"])
        np.testing.assert_array_equal(again.standard_errors()[b], RATINGS[b][f"{metric}_se"])
        assert again.losses()[b].flags.c_contiguous


def test_own_numbers(tmp_path):
    table = RatingTable.from_losses(SPACE, LOSSES, "mse", {"by": "hand"})
    table.save(tmp_path / "r.npz")
    again = RatingTable.load(tmp_path / "r.npz")
    np.testing.assert_array_equal(again.losses()[1], LOSSES[1])
    assert np.isnan(again.standard_errors()[0]).all()
    with pytest.raises(ValueError, match="relative_l1 was not measured in block 0; the table's own metric is mse"):
        again.losses("relative_l1")


def test_fields_in_any_order():
    shuffled = [block[list(reversed(block.dtype.names))] for block in RATINGS]
    np.testing.assert_array_equal(ratings(blocks=shuffled).blocks[0], RATINGS[0])


def with_value(field, value):
    blocks = [block.copy() for block in RATINGS]
    blocks[1][field][4] = value
    return blocks


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "relativ_l1"}, "unknown metric 'relativ_l1'; did you mean 'relative_l1'"),
        ({"blocks": RATINGS[:1]}, "one array per block, 2, got 1"),
        ({"blocks": [RATINGS[0], RATINGS[0]]}, r"block 1 must be \[candidates\] = \[10\], got \[6\]"),
        ({"blocks": LOSSES}, "must have the float64 fields mse, mse_se"),
        ({"blocks": [b.astype([(n, "f4") for n in b.dtype.names]) for b in RATINGS]}, "must have the float64 fields"),
        ({"blocks": with_value("relative_l1", np.nan)}, "block 1: relative_l1 must be finite, got nan for candidate 4"),
        ({"blocks": with_value("mse", np.inf)}, "block 1: mse must be finite, got inf for candidate 4"),
        ({"blocks": with_value("mse_se", -1.0)}, "mse_se must be finite and >= 0, .* got -1.0 for candidate 4"),
        ({"blocks": with_value("mse_se", np.inf)}, "mse_se must be finite and >= 0"),
        ({"metadata": {"metric": "mse"}}, "table's own keys, got metric"),
    ],
    ids=["metric", "blocks", "candidates", "fields", "float32", "nan", "inf", "negative-se", "infinite-se", "own-key"],
)
def test_ratings_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ratings(**changes)


def test_unmeasured_metric_of_its_own_refused():
    blocks = [block.copy() for block in RATINGS]
    for block in blocks:
        block["relative_l1"] = np.nan
    with pytest.raises(ValueError, match="relative_l1 was not measured"):
        ratings(blocks=blocks)
    assert ratings(blocks=blocks, metric="mse").metric == "mse"


def test_metadata_that_json_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match="metadata must be what JSON holds"):
        ratings(metadata={"x": np.arange(3)}).save(tmp_path / "r.npz")
    assert list(tmp_path.iterdir()) == []


# ---- pandas ---------------------------------------------------------------------------------------------------------


def test_ratings_to_pandas():
    pytest.importorskip("pandas")
    frame = ratings().to_pandas()
    assert list(frame.columns[:5]) == ["block", "cell", "path", "candidate", "mse"]
    assert len(frame) == 16
    row = frame.iloc[6 + 9]
    assert (row.block, row.cell, row.path, row.candidate) == (1, 1, (1,), 9)
    assert row.relative_l1 == RATINGS[1]["relative_l1"][9]


def test_costs_to_pandas():
    pytest.importorskip("pandas")
    table = cost_table(SPACE)
    frame = table.to_pandas()
    assert len(frame) == 6 + 2 * 10
    wide = frame[(frame.block == 1) & (frame.in_width == 8) & (frame.candidate == 2)].iloc[0]
    assert wide.macs == table.costs["macs"][1][1, 2]
    assert wide.path == (0, 1, 0)


# ---- damaged files --------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "ratings.npz"
    ratings().save(path)
    return path


def rewritten(path, arrays=None, **metadata):
    """Writes a file whose arrays or metadata differ from the one that was there."""
    with np.load(path) as archive:
        old = dict(archive.items())
    text = json.dumps(json.loads(old["metadata"].tobytes()) | metadata)
    old["metadata"] = np.frombuffer(text.encode(), np.uint8)
    new = {name: array for name, array in (old | (arrays or {})).items() if array is not None}
    np.savez(path, **new)


@pytest.mark.parametrize(
    ("arrays", "metadata", "message"),
    [
        ({}, {"format": "dna_fast.costs"}, "expected format 'dna_fast.ratings', got 'dna_fast.costs'; were two tables"),
        ({}, {"version": 2}, "expected a version up to 1, got the newer 2; upgrade dna_fast"),
        ({}, {"version": "1"}, "version must be a positive integer, got '1'"),
        ({}, {"space_sha256": "0"}, "edited: its space has sha256"),
        ({}, {"space": {"name": "x"}}, "missing key 'choices'"),
        ({}, {"space": 3}, "expected a mapping"),
        ({}, {"metric": "speed"}, "unknown metric 'speed'"),
        ({"block_1": None}, {}, "expected the arrays block_0, block_1, got block_0"),
        ({"block_2": RATINGS[0]}, {}, "got block_0, block_1, block_2"),
        ({"block_1": RATINGS[0]}, {}, r"block 1 must be \[candidates\] = \[10\], got \[6\]"),
        ({"block_1": with_value("mse", np.inf)[1]}, {}, "mse must be finite, got inf"),
        ({"metadata": None}, {}, "not a table of dna_fast: expected an array 'metadata' of bytes, got none"),
        ({"metadata": np.zeros(3)}, {}, "expected an array 'metadata' of bytes, got float64"),
        ({"metadata": np.frombuffer(b"{", np.uint8)}, {}, "its metadata is not JSON"),
        ({"metadata": np.frombuffer(b"\xff", np.uint8)}, {}, "its metadata is not JSON"),
        ({"metadata": np.frombuffer(b"[]", np.uint8)}, {}, "its metadata must be a JSON object, got"),
        ({"block_1": np.array([None])}, {}, "cannot be read as a table"),  # a pickle
    ],
)
def test_wrong_ratings_file(saved, arrays, metadata, message):
    rewritten(saved, arrays, **metadata)
    with pytest.raises(ValueError, match=message) as raised:
        RatingTable.load(saved)
    assert str(saved) in str(raised.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("block_1", np.zeros((2, 10), dtype=[("macs", "i8")]), "expected the costs .* in every block"),
        ("block_0", lambda a: -a["macs"].astype([("x", "i8")])["x"], "expected the costs"),
        ("block_0", "negative", "must be >= 0, got -1 for candidate 0"),
        ("block_0", "float", "must be whole numbers, got float64"),
    ],
    ids=["missing", "bare", "negative", "float"],
)
def test_wrong_costs_file(tmp_path, field, value, message):
    path = tmp_path / "costs.npz"
    cost_table(SPACE).save(path)
    with np.load(path) as archive:
        block = archive[field].copy()
    if isinstance(value, np.ndarray):
        block = value
    elif value == "negative":
        block["macs"][0, 0] = -1
    elif value == "float":
        block = block.astype([(name, float) for name in block.dtype.names])
    else:
        block = value(block)
    rewritten(path, {field: block})
    with pytest.raises(ValueError, match=message):
        CostTable.load(path)


def test_costs_file_without_reduce(tmp_path):
    path = tmp_path / "costs.npz"
    cost_table(SPACE).save(path)
    rewritten(path, reduce=None)
    with pytest.raises(ValueError, match="expected the costs None in every block"):
        CostTable.load(path)


def test_not_an_archive(tmp_path):
    path = tmp_path / "x.npz"
    with pytest.raises(ValueError, match=r"x.npz: no such file"):
        RatingTable.load(path)
    path.write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"x.npz: cannot be read as a table, damaged or not one"):
        RatingTable.load(path)
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match="one bare array"):
        RatingTable.load(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read as a table"):
        RatingTable.load(path)


def test_truncated_and_flipped_files_never_give_a_wrong_table(saved):
    """Any damage is either refused in words or harmless: zip headers have a few bytes that nothing reads."""
    whole = saved.read_bytes()
    for length in range(0, len(whole), 97):
        saved.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cannot be read as a table"):
            RatingTable.load(saved)
    draw, refused = random.Random(3), 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        saved.write_bytes(damaged)
        try:
            table = RatingTable.load(saved)
        except ValueError:
            refused += 1
        else:
            np.testing.assert_array_equal(table.blocks[0], RATINGS[0])
            np.testing.assert_array_equal(table.blocks[1], RATINGS[1])
    assert refused > 200


def test_failed_save_keeps_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()

    def broken(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(tables.np, "savez_compressed", broken)
    with pytest.raises(OSError, match="disk full"):
        ratings(metric="mse").save(saved)
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]
