"""The training benchmark: its opponent trains the same function, its sums and ratios, and what is calculated for many GPUs."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks import predict_training
from benchmarks.predict_training import Machine, Work, image_s, partitions, predict, ring_bytes, work_of
from benchmarks.race import Pace, race
from benchmarks.races import train as training
from benchmarks.results import Entry, Race, Result
from benchmarks.sections import train as section
from dna_fast.space import Block, Cell, Choice, Frame, SearchSpace, preset

# Widths of eights, because timm's layers round theirs.
SPACE = SearchSpace(
    "eights",
    (Choice(3, 2), Choice(5, 3)),
    (Block(2, (Cell(1, 16), Cell(2, 24))), Block(2, (Cell(2, 32),))),
    Frame(stem_channels=16, stem_width=8, num_classes=4, resolution=64),
)


@pytest.fixture(scope="module", params=["adapter", "wide"])
def job(request: pytest.FixtureRequest) -> training.Job:
    return training.job_of("tf_efficientnet_b0", SPACE, request.param, 4)


def test_the_opponent_trains_the_same_function(job: training.Job) -> None:
    """Loss of every cell before the first step and, along the same path, behind it: so gradients and updates agree, too."""
    contestants = [*training._one_by_one(job, "tuned", "float32", [1.0] * len(job.cells))]
    opponent = [torch.stack([c.run() for c in contestants]) for _ in range(3)]
    ours = training._ours(replace(job, supernet=copy.deepcopy(job.supernet)), "float32")
    mine = [ours() for _ in range(3)]
    exact = torch.tensor(training.exact_losses(job))
    tolerance = training.TOLERANCES["float32"]
    torch.testing.assert_close(opponent[0], exact, rtol=tolerance, atol=0)
    torch.testing.assert_close(mine[0], exact, rtol=tolerance, atol=0)
    # In block 0 our cells share a stem and follow their mean, so only the last block is the same problem after a step. Adam divides
    # by the gradient's own size: where that is next to nothing, a rounding decides the sign of a whole step of lr.
    for step in (1, 2):
        assert mine[step][-1] < mine[step - 1][-1]
        torch.testing.assert_close(mine[step][-1], opponent[step][-1], rtol=2e-3, atol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_parts_are_checked_and_timed(job: training.Job, dtype: str) -> None:
    expected = training.exact_losses(job)
    contestants = [*training._one_by_one(job, "released", dtype, expected), *training._parts(job, dtype, expected)]
    entries = race(contestants, Pace(turns=1, turn_s=0.0))
    assert [e["cell"] for e in entries] == ["0.0", "0.1", "1.0", *["all"] * len(training.PARTS)]
    assert [e["way"] for e in entries[3:]] == list(training.PARTS)
    assert all(e["error"] <= training.TOLERANCES[dtype] for e in entries)


def test_a_wrong_loss_is_not_timed(job: training.Job) -> None:
    wrong = [loss * 1.001 for loss in training.exact_losses(job)]
    with pytest.raises(
        AssertionError, match=r"expected losses of the cells within 4\.0e-05 of float64's, got one off by"
    ):
        race([*training._parts(job, "float32", wrong)], Pace(turns=1, turn_s=0.0))


def test_work_is_counted_per_image(job: training.Job) -> None:
    found, points = training.work(job), job.teacher.plan.points
    students = 3 * training.students_macs(job.supernet, [job.step])[0]
    assert found["macs_ours"] == points[0].macs + points[1].macs + students
    # A pass to the end of block 0 for its two cells, to the end of block 1 for its one; and block 0's stem twice.
    stem = 3 * 32 * 32 * (27 * 16 + 9 * 16 + 16 * 8) + 3 * 2 * 16 * SPACE.frame.stem_se_channels
    assert found["macs_released"] == 3 * points[0].macs + points[1].macs + students + stem


# ---- the section -----------------------------------------------------------------------------------------------------


def test_the_section_adds_up_cells() -> None:
    def entry(way: str, cell: str, seconds: float) -> Entry:
        return Entry({"way": way, "dtype": "float32", "cell": cell}, {"median": seconds})

    facts: dict[str, Any] = {"model": "m", "space": "s", "boundary": "wide", "batch": 4, "threads": 2, "cells": 2}
    facts |= {"macs_released": 44e9, "macs_ours": 11e9, "teacher_macs": 5e9}
    entries = (
        *(entry("released", "0.0", 9.0), entry("released", "0.1", 3.0)),
        *(entry("tuned", "0.0", 6.0), entry("tuned", "0.1", 2.0)),
        *(entry("shared", "all", 2.0), entry("ours", "all", 1.0)),
    )
    made = section.section(Result("train", "full", "2026-01-02", "r", False, {}, (Race("step", facts, entries),)))
    assert made.measured == {"training.sharing": 4.0, "training.fused": 8.0}
    rows = [line for line in made.lines if line.startswith("| float32")]
    assert len(rows) == 4
    assert rows[1].endswith("| 0.500 | 2,000 | 1.50x | 1.00x | 1.50x |")
    assert rows[3].endswith("| 4.00 | 250 | 12.00x | 8.00x | 2.00x |")
    assert any("4.00x less" in line for line in made.lines)


# ---- many GPUs -------------------------------------------------------------------------------------------------------

# 1 ms of teacher and 3 x 1 ms of students per image; twice that.
TWO = [Work(1e9, 1e9, 1e6, 1000), Work(2e9, 2e9, 3e6, 500)]
MACHINE = Machine(nodes=1, gpus=2, teacher_tmacs=1.0, student_tmacs=1.0, node_gbps=1.0, network_gbps=0.5)


def test_an_image_takes_teacher_and_three_times_the_students() -> None:
    assert image_s(TWO, MACHINE) == pytest.approx(0.012)
    assert image_s(TWO[1:], MACHINE) == pytest.approx(0.008)


def test_a_ring_sends_every_value_out_and_back_but_for_ones_own() -> None:
    assert [ring_bytes(100, ranks) for ranks in (1, 2, 4)] == [0.0, 400.0, 600.0]


def test_every_cut_is_tried() -> None:
    assert list(partitions(3, 2)) == [(range(1), range(1, 3)), (range(2), range(2, 3))]
    assert len(list(partitions(6, 3))) == 10


def test_placements_by_hand() -> None:
    data, stages = predict(TWO, MACHINE, 10)
    # Five images each; 4e6 gradients, half of them out and half back: 16 MB at 1 GB/s.
    assert (data.words, data.balance) == ("2x2", 1.0)
    assert (data.compute_s, data.traffic_s, data.sent_bytes) == pytest.approx((0.06, 0.016, 16e6))
    # Teacher and students of block 1, 10 images; block 0's GPU is busy half of the time, and sends 10 features of 1000 x 2 bytes.
    assert (stages.words, stages.balance) == ("1+1x1", pytest.approx(0.75))
    assert (stages.compute_s, stages.traffic_s, stages.sent_bytes) == pytest.approx((0.08, 2e-5, 2e4))
    steps = 20 * ((1_281_167 - 1_216) // 10)
    assert data.hours == pytest.approx(steps * 0.076 / 3600)


def test_nodes_share_images_and_add_up_gradients_over_the_network() -> None:
    data, stages = predict(TWO, replace(MACHINE, nodes=2), 20)
    # As on one node with 10 images, and then a ring of two nodes: 4e6 values in 4 bytes at 0.5 GB/s.
    assert (data.words, stages.words) == ("2x4", "1+1x2")
    assert (data.compute_s, data.traffic_s) == pytest.approx((0.06, 0.016 + 0.032))
    assert data.sent_bytes == pytest.approx(16e6 + 8e6)  # a GPU has added up half of the values for its node
    assert (stages.compute_s, stages.traffic_s) == pytest.approx((0.08, 2e-5 + 0.032))
    assert stages.sent_bytes == pytest.approx(2e4 + 3e6 * 4)


def test_the_best_balanced_cut_is_taken() -> None:
    uneven = [Work(m * 1e9, 0.0, 0.0, 1) for m in (1, 1, 4, 2)]
    found = predict(uneven, replace(MACHINE, gpus=3), 1)
    assert [p.words for p in found] == ["4x3", "2+1+1x1"]
    assert found[1].balance == pytest.approx(8 / 3 / 4)


def test_work_of_a_space_is_a_mean_over_operators() -> None:
    work = work_of(SPACE, (10, 20), (5, 6))
    # Block 1: one cell of two layers, 16 -> 32 at 16 to 8 pixels and 32 -> 32; operators k3 e2 and k5 e3, squeeze-excite a quarter.
    first = [16 * m * 256 + m * taps * 64 + m * 32 * 64 + 2 * m * 4 for m, taps in ((32, 9), (48, 25))]
    second = [32 * m * 64 + m * taps * 64 + m * 32 * 64 + 2 * m * 8 for m, taps in ((64, 9), (96, 25))]
    assert work[1].student_macs == (sum(first) + sum(second)) / 2
    assert work[0].teacher_macs == 10
    assert [w.feature_values for w in work] == [5 * 16 * 16, 6 * 8 * 8]


@pytest.mark.slow
def test_b7s_macs_and_widths_are_the_teachers() -> None:
    import timm

    space = preset("dna")
    plan = training.teacher_of(timm.create_model("tf_efficientnet_b7").eval(), space, fused=False).plan
    assert tuple(point.macs for point in plan.points) == predict_training.B7_MACS
    assert plan.channels == predict_training.B7_CHANNELS


def test_the_page_says_that_it_is_calculated() -> None:
    lines = predict_training.lines()
    assert lines[0].startswith("**Calculated, not measured**")
    assert any("*Assumed*" in line for line in lines)
    assert len([line for line in lines if line.startswith("| ")]) == 2 + 6
