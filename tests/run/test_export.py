"""`twins export` of a trained run: one verified file beside it, with a sheet that says what the file is worth."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import twins
from twins import exporter, verification
from twins.backbone.config import VARIANTS
from twins.cli.main import main

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(tmp_path_factory, few_digits):
    """A classifier of digits after a few steps, of five blocks: the time to export grows with them."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    config = twins.TrainConfig(
        data="digits", model="twins_svt_nano", size=32, epochs=0.1, workers=0, device="cpu", out=str(folder)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twins.report.page.write_report", lambda run, *, device: None)
        patch.setitem(VARIANTS, "twins_svt_nano", replace(VARIANTS["twins_svt_nano"], depths=(1, 1, 1, 2)))
        twins.train(config)
        yield folder


@pytest.mark.slow
def test_a_run_is_exported_measured_and_kept_apart_if_it_is_wrong(run, monkeypatch, capsys):
    monkeypatch.setattr(verification, "SECONDS", 0.0)
    assert main(["export", str(run), "--size", "32", "48"]) == 2
    assert not (run / "exports").exists()  # a refused export leaves nothing
    capsys.readouterr()
    arguments = ["export", str(run), "--format", "torch", "--data", "digits"]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert "on 4 images (the default ones: china.jpg, flower.jpg, digits/1, scenes/val/0), at 32 x 32 pixels" in output
    assert "top1 on 30 images of digits: file" in output
    sheet = json.loads((run / "exports" / "digits-torch.json").read_text())
    assert sheet["metric"]["file"] == pytest.approx(sheet["metric"]["network"], abs=1e-3)
    assert sheet["weights_sha256"] == twins.load(run / "exports" / "digits-torch.pt2").model.session.info.weights_sha256

    before = sheet["file_bytes"]
    wrong = sheet["metric"] | {"file": 0.0, "drop": 12.5}
    monkeypatch.setattr(exporter._Metric, "measure", lambda self, path: setattr(self, "measured", wrong) or wrong)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert (
        "digits-torch.pt2 failed its verification: its top1 on digits is 0.00 %, 12.50 points below the network's"
        in error
    )
    assert "--max-drop is 0.5; it is kept as digits-torch.pt2.failed, with its sheet digits-torch.failed.json" in error
    names = ["digits-torch.failed.json", "digits-torch.json", "digits-torch.pt2", "digits-torch.pt2.failed"]
    assert sorted(path.name for path in (run / "exports").iterdir()) == names
    assert json.loads((run / "exports" / "digits-torch.json").read_text())["file_bytes"] == before
