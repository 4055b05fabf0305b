"""Tracks of objects through the frames of a video, by ByteTrack in the package `trackers`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from twins.errors import MissingExtraError
from twins.predictions import Prediction

LOW = 1 / 3
"""An object continues a track if its score reaches this share of the score that begins one, as ByteTrack's 0.1 of 0.3
does: objects that are hidden in part, or blurred, keep their track."""
NO_TRACK = -1
"""Track of an object that no track has yet; a track begins with the second frame of an object."""


def require_trackers() -> Any:
    """Import and return the package `trackers`.

    Raises:
        MissingExtraError: it is not installed, or cannot be imported.
    """
    try:
        import trackers
    except ImportError as error:
        reason = "" if isinstance(error, ModuleNotFoundError) and error.name == "trackers" else f" ({error})"
        raise MissingExtraError(
            f"tracking needs the package trackers{reason}; pip install 'twins-vision[tracking]'"
        ) from error
    return trackers


class VideoTracks:
    """The tracks of one video: gives each object the number of its track, from 1, whatever its class.

    The detector must find objects with scores down to `LOW * score`; those below `score` that continue no track are
    removed.

    Args:
        score: minimum score of an object that begins a track.

    Raises:
        MissingExtraError: the package `trackers` cannot be imported.
    """

    def __init__(self, score: float) -> None:
        tracker = require_trackers().ByteTrackTracker
        self._score = score
        self._tracker = tracker(track_activation_threshold=score, high_conf_det_threshold=score)
        self._labels: dict[int, Counter[str]] = {}

    def add(self, prediction: Prediction, seconds: float) -> Prediction:
        """Return the prediction of the next frame with `tracks`; `seconds` is the time of the frame."""
        from supervision import Detections

        assert prediction.boxes is not None
        assert prediction.scores is not None
        positions = np.arange(len(prediction.boxes))
        detections = Detections(prediction.boxes, confidence=prediction.scores, data={"position": positions})
        tracked = self._tracker.update(detections, timestamp=seconds)
        tracks = np.full(len(positions), NO_TRACK)
        if len(tracked):  # in another order
            tracks[tracked.data["position"]] = np.where(tracked.tracker_id < 0, NO_TRACK, tracked.tracker_id + 1)
        kept = (prediction.scores > self._score) | (tracks != NO_TRACK)
        result = select(replace(prediction, tracks=tracks), kept)
        assert result.labels is not None
        for track, label in zip(tracks[kept].tolist(), result.labels.tolist(), strict=True):
            if track != NO_TRACK:
                self._labels.setdefault(track, Counter())[prediction.name(label)] += 1
        return result

    def counts(self) -> dict[str, int]:
        """Return the number of tracks by class name; the class of a track is its most frequent one."""
        return dict(Counter(labels.most_common(1)[0][0] for labels in self._labels.values()))


def select(prediction: Prediction, kept: Any) -> Prediction:
    """Return a detector's prediction with some of its objects; `kept` is a mask of them."""
    fields = ("labels", "scores", "boxes", "masks", "tracks")
    values = {name: getattr(prediction, name) for name in fields}
    return replace(prediction, **{name: value[kept] for name, value in values.items() if value is not None})
