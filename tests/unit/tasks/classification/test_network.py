"""The classification network: batch invariance, features, losses, decoding, a new classification layer."""

from __future__ import annotations

import pytest
import torch

import twins
from twins.errors import ConfigError, InputError, NotFoundError


@pytest.fixture
def model():
    torch.manual_seed(0)
    return twins.create_model("twins_svt_nano", num_classes=3, names=["a", "b", "c"]).double().eval()


def test_logits_do_not_depend_on_the_other_images_in_a_batch(model):
    batch, sizes = torch.randn(3, 3, 80, 96, dtype=torch.float64), torch.tensor([[80, 96], [33, 40], [70, 64]])
    together = model(batch, sizes)
    for index, (height, width) in enumerate(sizes.tolist()):
        alone = model(batch[index : index + 1, :, :height, :width])
        torch.testing.assert_close(together[index : index + 1], alone, rtol=0, atol=1e-9)


def test_a_network_without_classes_returns_pooled_features():
    model = twins.create_model("twins_svt_nano", num_classes=0).eval()
    images = torch.randn(2, 3, 64, 64)
    maps = model.forward_features(images)
    assert maps.shape == (2, 256, 2, 2)
    torch.testing.assert_close(model(images), maps.mean(dim=(2, 3)))


def test_one_hot_soft_targets_equal_labels(model):
    images, labels = torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    soft = torch.nn.functional.one_hot(labels, 3).double()
    hard = model.losses(images, labels)["classification"]
    torch.testing.assert_close(model.losses(images, soft)["classification"], hard, check_dtype=False)


def test_class_weights_weight_the_loss(model):
    images, labels = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 2])
    model.class_weights = torch.tensor([1.0, 1.0, 0.0])
    weighted = model.losses(images, labels)["classification"]
    model.class_weights = None
    torch.testing.assert_close(weighted, model.losses(images[:1], labels[:1])["classification"])


def test_soft_targets_of_the_wrong_width_are_an_error(model):
    with pytest.raises(InputError, match=r"\(1, 3\), found \(1, 4\)"):
        model.losses(torch.randn(1, 3, 32, 32, dtype=torch.float64), torch.ones(1, 4))


def test_decoding_lists_all_classes_in_order_of_probability(model):
    (prediction,) = model.decode(torch.tensor([[0.0, 2.0, 1.0]]), None, [(10, 20)])
    assert prediction.labels.tolist() == [1, 2, 0]
    assert prediction.scores.sum() == pytest.approx(1.0)
    assert prediction.size == (10, 20)
    assert prediction.to_dict(top=1)["names"] == ["b"]


def test_a_reset_classifier_has_the_new_classes_and_the_same_dtype(model):
    model.reset_classifier(5)
    assert model(torch.randn(1, 3, 32, 32, dtype=torch.float64)).shape == (1, 5)
    assert (model.num_classes, model.info.names) == (5, ())


def test_positional_encodings_have_no_weight_decay(model):
    names = model.no_weight_decay()
    assert len(names) == 8
    assert names <= {name for name, _ in model.named_parameters()}


def test_invalid_tasks_names_and_heads_are_errors():
    with pytest.raises(NotFoundError, match=r"'clasification'.*classification"):
        twins.create_model("twins_svt_nano", task="clasification")
    with pytest.raises(ConfigError, match="2 for 3 classes"):
        twins.create_model("twins_svt_nano", num_classes=3, names=["a", "b"])
    with pytest.raises(ConfigError, match="takes no name for it"):
        twins.create_model("twins_svt_nano", head="upernet")
