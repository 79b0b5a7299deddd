"""A configuration small enough to run whole in seconds; for tests of whole runs."""

from __future__ import annotations

from typing import Any

CONFIG: dict[str, Any] = {
    "name": "small",
    "space": {
        "name": "small",
        "choices": [{"kernel": 3, "expand_ratio": 2}, {"kernel": 5, "expand_ratio": 3}],
        "blocks": [
            {"stride": 2, "cells": [{"depth": 1, "width": 8}, {"depth": 2, "width": 10}]},
            {"stride": 1, "cells": [{"depth": 2, "width": 12}, {"depth": 1, "width": 16}]},
        ],
        "frame": {"stem_channels": 8, "stem_width": 6, "head_channels": 32, "num_classes": 10, "resolution": 32},
    },
    "data": {"kind": "digits"},
    "teacher": {
        "pretrained": False,
        "arch": {
            "stem_size": 8,
            "num_features": 32,
            "arch_def": [["ds_r1_k3_s1_c8"], ["ir_r1_k3_s2_e3_c12"], ["ir_r2_k3_s1_e3_c16"]],
        },
        "fit": {"epochs": 1, "warmup_epochs": 0},
    },
    "train": {"epochs": 2, "batch_size": 64, "learning_rates": [0.01], "reference_batch": 64},
    "rate": {"images": 128, "calibration_images": 100},
    "search": {"max": {"macs": "teacher/1.1"}, "top": 3},
    "retrain": {
        "epochs": 1,
        "optimizer": "adamw",
        "schedule": "cosine",
        "lr": 0.003,
        "batch_size": 64,
        "warmup_epochs": 0,
        "ema_decay": 0.0,
        "distill_weight": 0.5,
    },
}
