"""What the first page of each verb's help shows: examples, and the options that are used most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Screen(NamedTuple):
    """The help of one verb; options that are named nowhere follow in the groups of the verb's dataclass."""

    examples: tuple[tuple[str, str], ...] = ()
    """Commands that work as typed, each with what it does."""
    first: tuple[str, ...] = ()
    """Settings whose flags are on the first page; empty means all that are in no group."""
    groups: Mapping[str, tuple[str, ...]] = {}
    """Titles of further groups, each with its settings."""


SCREENS = {
    "models": Screen((("twins models", "tables of all networks"), ("twins models --size 384 --json", ""))),
    "recipes": Screen(
        (
            ("twins recipes", "the recipes of each task"),
            ("twins recipes detection svt", "those that match all words"),
            ("twins recipes finetune", "one recipe with its settings"),
        )
    ),
    "doctor": Screen(
        (
            ("twins doctor", "versions, devices, kernels in use"),
            ("twins doctor --all", "also each operator in each situation"),
            ("twins doctor --json > doctor.json", "all of it for a bug report"),
        )
    ),
    "demo": Screen(
        (
            ("twins demo", "handwritten digits, one minute"),
            ("twins demo --task detection", "digits on photographs"),
            ("twins demo --task semantic --out runs/first", ""),
        )
    ),
    "check": Screen(
        (
            ("twins check digits", "an embedded data set"),
            ("twins check photos", "your folder, for the task that it suits best"),
            ("twins check photos --task semantic", ""),
            ("twins check photos/data.yaml --json", ""),
        ),
        ("data", "task", "json", "val_share", "seed", "write_layout"),
    ),
    "train": Screen(
        (
            ("twins train --data digits --minutes 1", "embedded images, no download"),
            ("twins train --data photos", "a folder of images per class"),
            ("twins train --data photos --task detection", "images with boxes"),
        ),
        (
            "data",
            "task",
            "model",
            "weights",
            "recipe",
            "minutes",
            "epochs",
            "size",
            "batch_size",
            "optimizer.lr",
            "out",
            "resume",
            "device",
            "seed",
        ),
        {
            "Network": ("head", "padding", "drop_rate", "drop_path", "freeze", "ema_decay", "weights_key"),
            "Length, evaluation and logging": (
                "steps",
                "max_steps",
                "patience",
                "eval_every",
                "save_every",
                "log_every",
                "trackers",
                "quiet",
                "verbose",
            ),
            "Images and loss": ("crop", "fit", "class_weights", "val_share", "max_skipped"),
            "Speed and memory": (
                "precision",
                "accumulate",
                "workers",
                "compile",
                "checkpointing",
                "selective_checkpointing",
            ),
        },
    ),
    "eval": Screen(
        (
            ("twins eval runs/first", "the run's own held-out images"),
            ("twins eval runs/first --data photos --part test", "the test part of another data set"),
            ("twins eval runs/first --out eval.json", "also protocol and tables"),
            ("twins eval results.json --data truth.json --task detection", ""),
        ),
        ("model", "data", "part", "out", "results", "task", "class_map", "score", "size", "batch_size", "device"),
    ),
    "predict": Screen(
        (
            ("twins predict runs/first photo.jpg", ""),
            ("twins predict runs/first photos --out drawn", "drawings of a folder's images"),
            ("twins predict runs/first 'photos/*.jpg' --csv all.csv", ""),
            ("twins predict twins_svt_small photo.jpg --top 3", "a published network"),
        ),
        ("model", "images", "out", "json", "csv", "top", "score", "tile", "batch_size", "device"),
    ),
    "compare": Screen(
        (
            ("twins compare runs/first runs/second", "writes compare.html"),
            ("twins compare runs/* --out all.html --images 12", ""),
        )
    ),
    "export": Screen(
        (
            ("twins export runs/first --format onnx", "one file, verified on real images"),
            ("twins export runs/first --precision int8 --calibrate photos", "calibrated and measured"),
            ("twins export runs/boxes --batch dynamic --padded", "images of any sizes in a batch"),
        ),
        ("model", "out", "format", "precision", "size", "batch", "padded", "score", "calibrate", "data", "max_drop"),
        {
            "What the file returns": ("logits", "features", "resize_in_graph", "opset"),
            "Verification": ("verify",),
        },
    ),
    "serve": Screen(
        (
            ("twins serve runs/first --open-browser", "try it on its page"),
            ("twins serve cats=runs/first dogs.onnx --workers 2", "two models in two processes"),
            ("twins serve runs/first --host 0.0.0.0 --api-keys keys.txt", "for others, with keys"),
        ),
        (
            "models",
            "host",
            "port",
            "open",
            "open_browser",
            "api_keys",
            "workers",
            "max_batch",
            "max_delay_ms",
            "grace",
            "device",
        ),
        {
            "Batches and limits": (
                "max_padding",
                "max_queue",
                "max_images",
                "max_megabytes",
                "max_megapixels",
                "max_connections",
                "receive_seconds",
                "answer_seconds",
            ),
            "Life and other programs": ("threads", "reload_seconds", "label_studio", "quiet"),
        },
    ),
    "convert": Screen(
        (
            ("twins convert runs/first first.pth --to timm", "the best weights of a run"),
            ("twins convert alt_gvt_small.pth svt.safetensors --to twins", ""),
        )
    ),
    "bench": Screen(
        (
            ("twins bench", "speed and memory of two networks"),
            ("twins bench twins_svt_small --against timm", "beside timm's"),
            ("twins bench all --batch 1 --modes inference --budget 50", ""),
        ),
        (
            "models",
            "against",
            "task",
            "modes",
            "batch",
            "size",
            "precision",
            "device",
            "rounds",
            "json",
            "plot",
        ),
    ),
    "completion": Screen(
        (
            ("twins completion bash > ~/.local/share/bash-completion/completions/twins", ""),
            ('twins completion zsh > "${fpath[1]}/_twins"', "zsh"),
            ("twins completion fish > ~/.config/fish/completions/twins.fish", "fish"),
        )
    ),
}
"""Help of each verb by name."""
