"""The held-out losses: means over images, from the forward pass that predicts, without random state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from twins import create_model
from twins.data.loading.batch import collate
from twins.data.loading.loader import EvalSamples
from twins.engine import measure
from twins.engine.measure import HeldOutLosses, Samples, predict_batches
from twins.tasks.contract import spec_of


def test_a_loss_is_the_mean_over_images_and_its_parts_are_given_if_there_are_several():
    losses = HeldOutLosses(lambda batch: None)
    losses.add({"boxes": torch.tensor(1.0), "masks": torch.tensor(2.0)}, images=1)
    losses.add({"boxes": torch.tensor(5.0), "masks": torch.tensor(2.0)}, images=3)
    assert losses.compute() == {"loss": 6.0, "loss_boxes": 4.0, "loss_masks": 2.0}
    single = HeldOutLosses(lambda batch: None)
    single.add({"classification": torch.tensor(0.5)}, images=2)
    assert single.compute() == {"loss": 0.5}
    assert HeldOutLosses(lambda batch: None).compute() == {}


def test_the_images_of_all_processes_count_alike_and_a_process_may_have_none(monkeypatch):
    shares = [({"a": 6.0}, 3), ({}, 0), ({"a": 2.0}, 1)]
    monkeypatch.setattr(measure, "gather", lambda accelerator, share: shares)
    assert HeldOutLosses(lambda batch: None).compute(object()) == {"loss": 2.0}  # type: ignore[arg-type]


def test_the_samples_are_of_the_same_images_whatever_the_order_of_the_batches():
    def collected(order: list[int]) -> list[int]:
        samples, batch = Samples(count=3), type("B", (), {})
        batches = []
        for index in order:
            one: Any = batch()
            one.indices = [index]
            batches.append((["prediction"], one))
        assert len(list(samples.collect(batches))) == len(order)
        return [index for index, _ in samples.items]

    assert collected(list(range(20))) == collected(list(reversed(range(20))))


HEADS = [
    ("classification", None),
    ("semantic", "semantic_fpn"),
    ("semantic", "upernet"),
    ("detection", "retinanet"),
    ("detection", "faster_rcnn"),
    ("instance", "mask_rcnn"),
]


def network_of(task: str, head: str | None) -> Any:
    torch.manual_seed(0)
    classes = {"num_classes": 10, "names": tuple("0123456789")} if task != "semantic" else {"num_classes": 3}
    return create_model("twins_svt_nano", task=task, head=head, **classes).eval()


def targets_of(task: str, count: int, side: int) -> Any:
    if task == "classification":
        return torch.arange(count)
    if task == "semantic":
        return [torch.randint(0, 3, (side, side), generator=torch.Generator().manual_seed(i)) for i in range(count)]
    return spec_of(task).synthetic_targets(torch.zeros(count, 3, side, side), 10)


@pytest.mark.parametrize(("task", "head"), HEADS)
def test_losses_and_outputs_of_one_pass_are_those_of_two_and_use_no_random_state(task, head):
    network, images = network_of(task, head), torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    targets = targets_of(task, 2, 64)
    with torch.inference_mode():
        expected, state = network(images), torch.get_rng_state()
        outputs, losses = network.forward_with_losses(images, targets)
        _, again = network.forward_with_losses(images, targets)
        assert torch.equal(torch.get_rng_state(), state)
        two_passes = network.losses(images, torch.stack(targets) if task == "semantic" else targets)
    for name, value in ({"logits": expected} if isinstance(expected, Tensor) else expected).items():
        assert torch.equal(value, outputs if isinstance(outputs, Tensor) else outputs[name]), name
    assert losses.keys() == two_passes.keys()
    for name in losses:
        assert losses[name].item() == again[name].item()
        torch.testing.assert_close(losses[name], two_passes[name], rtol=1e-5, atol=1e-6)


def test_label_smoothing_and_class_weights_are_not_in_the_held_out_loss():
    network, images, targets = network_of("classification", None), torch.randn(3, 3, 32, 32), torch.tensor([0, 4, 9])
    network.label_smoothing, network.class_weights = 0.3, torch.arange(10.0)
    with torch.inference_mode():
        logits, losses = network.forward_with_losses(images, targets)
    assert losses["classification"].item() == F.cross_entropy(logits, targets).item()


@pytest.mark.parametrize("task", ["semantic", "detection", "instance"])
def test_a_padded_batch_has_the_losses_of_its_images_where_the_loss_is_a_mean_over_images(task):
    class Images:
        names = ("a", "b")

        def __len__(self) -> int:
            return 2

        def load(self, index: int) -> Any:
            from PIL import Image

            size = ((96, 64), (64, 80))[index]
            return Image.effect_noise(size, 60).convert("RGB")

        def target(self, index: int) -> Any:
            width, height = ((96, 64), (64, 80))[index]
            return spec_of(task).synthetic_target(height, width)

        def path(self, index: int) -> str:
            return str(index)

    network, spec = network_of(task, None), spec_of(task)
    network.info = replace(network.info, preprocess=replace(network.info.preprocess, size=64))
    samples = EvalSamples(Images(), spec.eval_transform(network.info.preprocess))  # type: ignore[arg-type]
    batch = collate([samples[0], samples[1]])
    assert batch.sizes is not None
    losses = HeldOutLosses(spec.loss_targets)
    predictions = [p for found, _ in predict_batches(network, lambda: [batch], losses=losses) for p in found]
    assert [prediction.size for prediction in predictions] == [(64, 96), (80, 64)]
    together = losses.compute()
    assert all(value > 0 for value in together.values())
    if task == "semantic":
        alone = []
        for index in range(2):
            single = HeldOutLosses(spec.loss_targets)
            image = batch.images[index : index + 1, :, : batch.sizes[index, 0], : batch.sizes[index, 1]]
            one = type(batch)(image, [batch.targets[index]], [index], [batch.originals[index]])
            assert list(predict_batches(network, lambda one=one: [one], losses=single))
            alone.append(single.compute()["loss"])
        assert together["loss"] == pytest.approx(sum(alone) / 2, rel=1e-4)


def test_the_held_out_loss_of_two_runs_can_be_compared_whatever_regions_they_were_trained_on():
    network, images = network_of("detection", "faster_rcnn"), torch.randn(1, 3, 64, 64)
    targets = targets_of("detection", 1, 64)
    with torch.inference_mode():
        _, expected = network.forward_with_losses(images, targets)
        network.roi_head.samples = 8
        _, losses = network.forward_with_losses(images, targets)
    assert losses["classification"].item() == expected["classification"].item()
