"""A network of timm's that is as small as ours."""

from __future__ import annotations

import pytest

from twins.backbone.config import VARIANTS


@pytest.fixture
def timms_nano(monkeypatch):
    """Make timm build a network of the nano's shape."""
    import timm

    variant, create = VARIANTS["twins_svt_nano"], timm.create_model
    settings = {"embed_dims": variant.embed_dims, "depths": variant.depths, "num_heads": variant.num_heads}
    monkeypatch.setattr(timm, "is_model", "twins_svt_nano".__eq__)
    monkeypatch.setattr(timm, "create_model", lambda _, **more: create("twins_svt_small", **settings, **more))
