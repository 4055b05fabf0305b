"""The demos' recipes learn; counted in steps, since minutes are worth less on a busy machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from twins.recipes.detection import scenes_detection
from twins.recipes.folder import digits
from twins.recipes.semantic import scenes
from twins.training import train

STEPS = 900
"""What three minutes are worth on two cores that are half busy; on idle ones it is 1,400 to 1,500, and 0.84."""
FLOOR = 0.5
"""Mean IoU that so many steps do not fall below; they reach 0.64."""
FEW = 500
"""Of the detector's 930 steps; on a classifier of 5 of its 14 epochs."""
FOUND = 0.3
"""Box AP50 that so few steps do not fall below; they reach 0.46."""


@pytest.mark.slow
def test_the_semantic_demo_finds_digits_on_held_out_scenes(tmp_path):
    result = train(replace(scenes(), minutes=None, steps=STEPS, eval_every=10.0, out=str(tmp_path / "run")))
    assert result.metrics["miou"] > FLOOR


@pytest.mark.slow
def test_the_detection_demo_finds_digits_with_a_backbone_that_can_read_them(tmp_path):
    read = train(replace(digits(), epochs=5, eval_every=5.0, out=str(tmp_path / "digits")))
    weights = str(read.path / "best.safetensors")
    config = replace(scenes_detection(), minutes=None, steps=FEW, eval_every=10.0, weights=weights)
    result = train(replace(config, out=str(tmp_path / "run")))
    assert result.metrics["box_ap50"] > FOUND
