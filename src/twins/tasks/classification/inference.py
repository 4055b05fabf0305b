"""Inference of classifiers on one image: several scales and flip."""

from __future__ import annotations

import torch

from twins.bands import AnyImage
from twins.predictions import Prediction
from twins.tasks.classification.network import Classification, probabilities, to_predictions
from twins.tasks.inference import InferenceConfig
from twins.tasks.views import forward, views


@torch.inference_mode()
def infer(network: Classification, image: AnyImage, config: InferenceConfig) -> Prediction:
    """Return the classes of an image by the mean of the probabilities (softmax) over scales and mirror images.

    Args:
        network: in evaluation mode.
        image: with the network's number of channels.
        config: scales and flip.

    Raises:
        WeightsError: scores are not finite.
    """
    scores = [probabilities(network.info, forward(network, view)) for view, _ in views(network, image, config)]
    return to_predictions(network.info, torch.stack(scores).mean(dim=0), [(image.height, image.width)])[0]
