"""The semantic segmentation network: true sizes, losses, decoding."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import twins
from twins.data.transforms.config import SemanticConfig
from twins.engine.config import TrainConfig
from twins.errors import DataError, InputError, NotFoundError
from twins.tasks.semantic.network import AUXILIARY_WEIGHT, IGNORE, SemanticSegmentation
from twins.tasks.semantic.spec import LEAST_SHARE, SPEC

HEADS = ["semantic_fpn", "upernet"]
PRIOR = SemanticConfig(prior_bias=True)


def network(head: str, **settings):
    torch.manual_seed(0)
    model = twins.create_model("twins_svt_nano", task="semantic", head=head, num_classes=5, **settings).double()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("padding", ["exact", "reference", "unmasked"])
def test_an_image_alone_equals_the_image_in_a_batch(head, padding):
    model = network(head, padding=padding)
    sizes = torch.tensor([[96, 128], [64, 96], [96, 64]])
    batch = torch.full((3, 3, 96, 128), torch.nan, dtype=torch.float64)
    for image, (height, width) in zip(batch, sizes.tolist(), strict=True):
        image[:, :height, :width] = torch.randn(3, height, width, dtype=torch.float64)
    with torch.inference_mode():
        together = model(batch, sizes)
        for index, (height, width) in enumerate(sizes.tolist()):
            alone = model(batch[index : index + 1, :, :height, :width])
            for name, expected in alone.items():
                part = together[name][index, :, : expected.shape[2], : expected.shape[3]]
                torch.testing.assert_close(part, expected[0], atol=1e-9, rtol=0)
        originals = [(50, 70), (64, 96), (201, 33)]
        decoded = model.decode(together, sizes, originals)
        one = model.decode(model(batch[1:2, :, :64, :96]), None, originals[1:2])[0]
    assert [prediction.label_map.shape for prediction in decoded] == originals
    assert (decoded[1].label_map == one.label_map).all()


def test_sizes_in_training_are_an_error():
    model = network("semantic_fpn").train()
    with pytest.raises(InputError, match="crop"):
        model(torch.zeros(2, 3, 64, 64, dtype=torch.float64), torch.tensor([[64, 64], [32, 64]]))


@pytest.mark.parametrize("head", HEADS)
def test_losses_are_the_mean_cross_entropy_over_all_pixels(head):
    model = network(head)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    targets = torch.randint(0, 5, (2, 64, 64))
    targets[0, :40] = IGNORE
    outputs, losses = model(images), model.losses(images, targets)

    def expected(logits):
        full = F.interpolate(logits.float(), size=(64, 64), mode="bilinear", align_corners=False)
        return F.cross_entropy(full, targets, ignore_index=IGNORE, reduction="none").mean()

    torch.testing.assert_close(losses["semantic"], expected(outputs["logits"]))
    if head == "upernet":
        torch.testing.assert_close(losses["auxiliary"], AUXILIARY_WEIGHT * expected(outputs["auxiliary"]))
    assert len(losses) == len(outputs)


def test_a_target_of_ignored_pixels_gives_no_loss_and_no_gradient():
    model = network("upernet")
    losses = model.losses(torch.randn(1, 3, 64, 64, dtype=torch.float64), torch.full((1, 64, 64), IGNORE))
    sum(losses.values()).backward()
    assert sum(losses.values()) == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_a_few_steps_fit_one_batch(head):
    torch.manual_seed(0)
    model = twins.create_model("twins_svt_nano", task="semantic", head=head, num_classes=2).train()
    images = torch.randn(2, 3, 64, 64)
    targets = torch.zeros(2, 64, 64, dtype=torch.int64)
    targets[:, :, 32:] = 1
    images[:, :, :, 32:] += 3
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    first = None
    for _ in range(20):
        loss = sum(model.losses(images, targets).values())
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * first


def test_with_group_norm_training_logits_do_not_depend_on_the_batch():
    plain = network("upernet")
    info = replace(plain.info, norm="group")
    model = SemanticSegmentation(plain.backbone, info, drop_rate=0.0).double().train()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(model(images)["logits"][:1], model(images[:1])["logits"], atol=1e-9, rtol=0)


class Maps:
    """Two maps of class ids: 2 x 8 and 4 x 4 pixels."""

    names = ("sky", "road", "car", "absent", "void")
    classes = SimpleNamespace(colours=None)

    def __len__(self):
        return 2

    def target(self, index):
        large = np.zeros((4, 4), dtype=np.uint8)
        large[0] = (1, 1, 2, IGNORE)
        return np.zeros((2, 8), dtype=np.uint8) if index == 0 else large


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("weights", ["none", "sqrt"])
def test_the_prior_is_what_a_constant_prediction_would_learn(head, weights):
    """Its gradient, summed over the pixels and weighed like them, is zero for each class of the maps."""
    model = twins.create_model("twins_svt_nano", task="semantic", head=head, num_classes=5)
    config = TrainConfig(task="semantic", class_weights=weights, semantic=PRIOR)
    SPEC.configure(model, config, Maps())
    labels = torch.from_numpy(np.concatenate([Maps().target(index).ravel() for index in range(2)])).long()
    layers = [part.conv_seg for part in (model.decode_head, model.auxiliary_head) if part is not None]
    assert len(layers) == (2 if head == "upernet" else 1)
    for layer in layers:
        bias = layer.bias.detach().double().requires_grad_()
        logits = bias.expand(len(labels), 5)
        class_weights = None if model.class_weights is None else model.class_weights.double()
        F.cross_entropy(logits, labels, class_weights, ignore_index=IGNORE).backward()
        assert bias.grad[:3].tolist() == pytest.approx([0, 0, 0], abs=1e-3)
        probabilities = bias.softmax(dim=0)
        assert float(probabilities[0]) > 0.8 if weights == "none" else float(probabilities[0]) < 0.8
        assert float(probabilities[3:].max()) < 2e-4


@pytest.mark.parametrize(("weights", "share"), [("none", LEAST_SHARE), ("balanced", 1 / 3)])
def test_a_rare_class_has_its_share_after_the_weights_or_the_least_one(weights, share):
    """The third class fills one pixel of 16 million: less than the least share, but a third with balanced weights."""

    class Large(Maps):
        names = ("sky", "road", "car")

        def target(self, index):
            maps = np.zeros((4000, 4000), dtype=np.uint8)
            maps[:, :400] = 1
            maps[0, 0] = 2
            return maps

        def __len__(self):
            return 1

    model = twins.create_model("twins_svt_nano", task="semantic", num_classes=3)
    SPEC.configure(model, TrainConfig(task="semantic", class_weights=weights, semantic=PRIOR), Large())
    assert float(model.decode_head.conv_seg.bias.softmax(dim=0)[2]) == pytest.approx(share, rel=0.01)


def test_maps_that_are_gone_are_left_out_of_the_prior_and_maps_without_a_class_are_an_error():
    class Gone(Maps):
        def target(self, index):
            if index == 0:
                raise NotFoundError("no mask")
            return super().target(index)

    class Empty(Maps):
        def target(self, index):
            return np.full((2, 2), IGNORE, dtype=np.uint8)

    model = twins.create_model("twins_svt_nano", task="semantic", num_classes=5)
    SPEC.configure(model, TrainConfig(task="semantic", semantic=PRIOR), Gone())
    assert float(model.decode_head.conv_seg.bias.softmax(dim=0)[0]) == pytest.approx(12 / 15, rel=0.01)
    with pytest.raises(DataError, match="none of the training masks that were read holds any class"):
        SPEC.configure(model, TrainConfig(task="semantic", semantic=PRIOR), Empty())


def test_a_layer_that_was_loaded_keeps_its_bias(tmp_path):
    saved = network("upernet").float()
    with torch.no_grad():
        for head in (saved.decode_head, saved.auxiliary_head):
            head.conv_seg.bias.fill_(3.0)
    twins.save_weights(saved, tmp_path / "model.safetensors")
    config = TrainConfig(task="semantic", semantic=PRIOR)
    same = twins.load(tmp_path / "model.safetensors", device="cpu").model
    SPEC.configure(same, config, Maps())
    for head in (same.decode_head, same.auxiliary_head):
        assert head.conv_seg.bias.tolist() == [3.0] * 5
    other = twins.create_model(
        "twins_svt_nano", task="semantic", head="upernet", num_classes=4, weights=tmp_path / "model.safetensors",
        resize_head=True,
    )  # fmt: skip
    assert other.load_report.initialised
    other.set_prior(np.array([0.7, 0.1, 0.1, 0.1]))
    assert other.decode_head.conv_seg.bias.softmax(dim=0).tolist() == pytest.approx([0.7, 0.1, 0.1, 0.1])
