"""Names of models: canonical, of the paper, of the reference code and of the hub."""

from __future__ import annotations

import pytest

from twins.backbone.config import PUBLISHED, VARIANTS, TwinsConfig, aliases, list_models, resolve_name
from twins.errors import ConfigError, NotFoundError


def test_models_are_listed_sorted():
    assert list_models() == sorted(VARIANTS)
    assert len(list_models()) == 8


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("Twins-SVT-S", "twins_svt_small"),
        ("twins-pcpvt-l", "twins_pcpvt_large"),
        ("alt_gvt_base", "twins_svt_base"),
        ("pcpvt_small_v0", "twins_pcpvt_small"),
        ("pcpvt_large", "twins_pcpvt_large"),
        ("timm/twins_svt_small.in1k", "twins_svt_small"),
        ("twins_svt_small.in1k", "twins_svt_small"),
        ("svt_nano", "twins_svt_nano"),
    ],
)
def test_every_name_of_a_model_resolves_to_it(alias, name):
    assert resolve_name(alias) == name


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_listed_aliases_resolve_to_their_model(name):
    assert {resolve_name(alias) for alias in aliases(name)} == {name}


def test_a_misspelt_name_is_answered_with_the_nearest():
    with pytest.raises(NotFoundError, match=r"'twins_svt_smal'.*did you mean twins_svt_small"):
        resolve_name("twins_svt_smal")


def test_heads_must_divide_the_channels():
    with pytest.raises(ConfigError, match="3 heads for 64 channels"):
        TwinsConfig(
            family="pcpvt", embed_dims=(64, 64, 64, 64), depths=(1,) * 4, num_heads=(3,) * 4, mlp_ratios=(4,) * 4
        )
