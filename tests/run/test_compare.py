"""`twins compare` with real runs: it predicts the images that both hold out and draws those they disagree on."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from twins.cli.main import main
from twins.engine.config import TrainConfig
from twins.training import train


@pytest.mark.slow
def test_two_runs_are_compared_on_the_images_they_share(tmp_path, capsys):
    for name, base in (("dark", 40), ("light", 200)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(6):
            noise = np.random.default_rng(index).integers(0, 40, (40, 40, 3)) + base
            Image.fromarray(noise.astype(np.uint8)).save(tmp_path / "images" / name / f"{index}.png")
    runs = []
    for seed in (0, 1):
        config = TrainConfig(
            data=str(tmp_path / "images"),
            model="twins_svt_nano",
            weights="none",
            size=32,
            batch_size=2 + 2 * seed,
            max_steps=2,
            device="cpu",
            out=str(tmp_path / f"run{seed}"),
        )
        runs.append(str(train(config).path))
    capsys.readouterr()
    page = tmp_path / "page.html"
    assert main(["compare", *runs, "--out", str(page), "--images", "2", "--device", "cpu"]) == 0
    output = capsys.readouterr().out
    assert "held-out loss" in output
    assert str(page) in output
    text = page.read_text()
    assert text.count("<img") in (2, 4)  # one or two images, as each run predicts them
    assert "of 2 held-out images that all runs share" in text
    assert "batch_size" in text
