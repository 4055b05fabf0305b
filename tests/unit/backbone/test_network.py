"""Properties of the backbone: any size, true sizes, checkpointing, compilation, errors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import twins
from twins.backbone.config import VARIANTS
from twins.backbone.network import Twins
from twins.bench.memory import LiveTensors
from twins.errors import ConfigError, InputError

NANOS = ["twins_pcpvt_nano", "twins_svt_nano"]
PADDINGS = ["exact", "reference", "unmasked"]
FEWEST = {"twins_pcpvt_nano": (2, 1, 1, 1), "twins_svt_nano": (2, 1, 1, 2)}  # fewest blocks with each kind


def random_backbone(name: str, depths: tuple[int, ...] | None = None, **settings: object) -> Twins:
    """Return a small float64 backbone with random parameters, so that each of them matters."""
    torch.manual_seed(0)
    config = replace(VARIANTS[name], depths=depths or VARIANTS[name].depths)
    backbone = Twins(config, **settings).double().eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return backbone


@pytest.mark.parametrize("name", NANOS)
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (101, 75), (224, 64)])
def test_maps_have_the_size_given_by_the_strides(name, size):
    backbone = random_backbone(name)
    maps = backbone(torch.randn(1, 3, *size, dtype=torch.float64))
    for actual, channels, stride in zip(maps, backbone.channels, backbone.strides, strict=True):
        assert actual.shape == (1, channels, -(-size[0] // stride), -(-size[1] // stride))


@pytest.mark.slow
@pytest.mark.parametrize("name", NANOS)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("stage_norms", [False, True])
def test_an_image_alone_equals_the_same_image_in_a_padded_batch(name, padding, stage_norms):
    backbone = random_backbone(name, FEWEST[name], padding=padding, stage_norms=stage_norms)
    # windows divide one side of the first and both sides of the fourth, the published paddings' special cases
    sizes = torch.tensor([[112, 128], [53, 71], [64, 33], [112, 112], [33, 200]])
    batch = torch.full((len(sizes), 3, 112, 206), torch.nan, dtype=torch.float64)  # outside an image may be anything
    for image, (height, width) in zip(batch, sizes.tolist(), strict=True):
        image[:, :height, :width] = torch.randn(3, height, width, dtype=torch.float64)
    together = backbone(batch, sizes)
    for index, (height, width) in enumerate(sizes.tolist()):
        alone = backbone(batch[index : index + 1, :, :height, :width])
        for actual, expected in zip(together, alone, strict=True):
            rows, columns = expected.shape[2:]
            torch.testing.assert_close(actual[index : index + 1, :, :rows, :columns], expected, rtol=0, atol=1e-9)
            assert not actual[index, :, rows:].any()
            assert not actual[index, :, :, columns:].any()


@pytest.mark.parametrize("name", NANOS)
def test_sizes_that_fill_the_batch_change_nothing(name):
    backbone = random_backbone(name)
    images = torch.randn(2, 3, 70, 90, dtype=torch.float64)
    for actual, expected in zip(backbone(images, torch.tensor([[70, 90]] * 2)), backbone(images), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-11)


def test_the_paddings_agree_where_windows_divide_and_differ_where_they_do_not():
    divisible, indivisible = (torch.randn(1, 3, side, side, dtype=torch.float64) for side in (224, 96))
    results = {padding: random_backbone("twins_svt_nano", padding=padding) for padding in PADDINGS}
    with torch.inference_mode():
        on_divisible = {padding: backbone(divisible)[3] for padding, backbone in results.items()}
        on_indivisible = {padding: backbone(indivisible)[3] for padding, backbone in results.items()}
    for padding in PADDINGS:
        torch.testing.assert_close(on_divisible[padding], on_divisible["exact"], rtol=0, atol=1e-11)
    torch.testing.assert_close(on_indivisible["reference"], on_indivisible["exact"], rtol=0, atol=1e-11)
    assert (on_indivisible["unmasked"] - on_indivisible["exact"]).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", NANOS)
@pytest.mark.parametrize("with_sizes", [False, True])
def test_gradient_checkpointing_changes_neither_outputs_nor_gradients(name, with_sizes):
    images = torch.randn(2, 3, 64, 80, dtype=torch.float64)
    sizes = torch.tensor([[64, 80], [40, 56]]) if with_sizes else None
    results = []
    for settings in ({"enable": False}, {"selective": True}, {"enable": True}):
        backbone = random_backbone(name, FEWEST[name], drop_path_rate=0.3, attn_drop_rate=0.1).train()
        backbone.set_grad_checkpointing(**settings)
        torch.manual_seed(1)
        maps = backbone(images, sizes)
        sum(m.square().mean() for m in maps).backward()
        results.append([*maps, *(p.grad for p in backbone.parameters())])
    for plain, *others in zip(*results, strict=True):
        for recomputed in others:
            torch.testing.assert_close(recomputed, plain, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", NANOS)
@pytest.mark.parametrize("autocast", [False, True])  # which keeps the standard feed-forward part
def test_each_level_of_recomputation_keeps_less(name, autocast):
    def bytes_kept(keep: str | None = None, **settings: bool) -> int:
        backbone = random_backbone(name).train().float()
        backbone.set_grad_checkpointing(**settings)
        for block in [block for stage in backbone.stages for block in stage.blocks]:
            block.keep = keep or block.keep
        with LiveTensors() as live, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            maps = backbone(torch.randn(1, 3, 224, 224))
        assert all(m.requires_grad for m in maps)
        return live.bytes()

    plain = bytes_kept("all", enable=False)
    default, selective, full = bytes_kept(enable=False), bytes_kept(selective=True), bytes_kept(enable=True)
    assert default < 0.95 * plain
    assert selective < 0.8 * default
    assert full < 0.85 * selective


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "gradient", "sized"),  # the svt has the pcpvt's blocks and its own
    [(NANOS[0], False, True), (NANOS[1], True, True), (NANOS[1], False, False)],
)
def test_compiles_without_a_graph_break_and_changes_nothing(name, gradient, sized):
    backbone = random_backbone(name, FEWEST[name])
    images, sizes = torch.randn(2, 3, 70, 90, dtype=torch.float64), torch.tensor([[70, 90], [40, 61]])
    arguments = (images, sizes) if sized else (images,)
    torch.compiler.reset()  # otherwise a second size compiles for dynamic shapes
    compiled = torch.compile(backbone, fullgraph=True, backend="aot_eager")
    with torch.set_grad_enabled(gradient):
        for actual, expected in zip(compiled(*arguments), backbone(*arguments), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", NANOS)
def test_exports_with_a_batch_of_any_size(name):
    backbone = random_backbone(name, FEWEST[name])
    images = torch.randn(2, 3, 64, 90, dtype=torch.float64)
    program = torch.export.export(backbone, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    more = torch.randn(5, 3, 64, 90, dtype=torch.float64)
    for actual, expected in zip(program.module()(more), backbone(more), strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", NANOS)
def test_bfloat16_stays_near_float32(name):
    torch.manual_seed(0)
    backbone = Twins(VARIANTS[name], stage_norms=True).eval()
    images = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        expected = backbone(images)[3]
        actual = backbone.bfloat16()(images.bfloat16())[3]
    assert actual.dtype == torch.bfloat16
    assert (actual.float() - expected).std() < 0.03 * expected.std()


@pytest.mark.parametrize("in_chans", [1, 4])
def test_images_may_have_any_number_of_channels(in_chans):
    assert Twins(VARIANTS["twins_svt_nano"], in_chans=in_chans)(torch.randn(1, in_chans, 32, 32))[0].shape[1] == 32


def test_out_indices_choose_the_maps_and_the_stages_that_are_built():
    full, partial = random_backbone("twins_svt_nano"), random_backbone("twins_svt_nano", out_indices=(1, 2))
    assert (partial.channels, partial.strides, len(partial.stages)) == ((64, 128), (8, 16), 3)
    partial.load_state_dict({k: v for k, v in full.state_dict().items() if not k.startswith("stages.3")})
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    for actual, expected in zip(partial(images), full(images)[1:3], strict=True):
        torch.testing.assert_close(actual, expected)


def test_stage_norms_are_as_published_by_default():
    assert twins.create_backbone("twins_svt_nano").stage_norms
    assert not twins.create_backbone("twins_pcpvt_nano").stage_norms


@pytest.mark.parametrize(
    ("shape", "message"),
    [((3, 64, 64), r"\(3, 64, 64\)"), ((1, 4, 64, 64), r"\(1, 4, 64, 64\)"), ((1, 3, 31, 64), "31 x 64")],
)
def test_a_wrong_input_is_named_in_the_error(shape, message):
    with pytest.raises(InputError, match=message):
        random_backbone("twins_svt_nano")(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize(
    "sizes",
    [
        torch.tensor([[64, 64]]),
        torch.tensor([[64.0, 64.0]] * 2),
        torch.tensor([[64, 65], [64, 64]]),
        torch.tensor([[31, 64], [64, 64]]),
    ],
)
def test_wrong_sizes_are_refused(sizes):
    with pytest.raises(InputError, match="sizes must"):
        random_backbone("twins_svt_nano")(torch.zeros(2, 3, 64, 64, dtype=torch.float64), sizes)


def test_uint8_images_are_refused():
    with pytest.raises(InputError, match=r"torch\.uint8"):
        random_backbone("twins_svt_nano")(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


@pytest.mark.parametrize(
    "settings",
    [{"in_chans": 0}, {"padding": "same"}, {"out_indices": ()}, {"out_indices": (2, 1)}, {"drop_path_rate": 1.0}],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError):
        Twins(VARIANTS["twins_svt_nano"], **settings)


@pytest.mark.parametrize("part", ["attn", "mlp"])
def test_a_hook_sees_the_output_of_a_part_of_a_block_alone(part):
    torch.manual_seed(0)
    block = twins.create_backbone("twins_svt_nano").eval().stages[0].blocks[0]
    x = torch.randn(1, 14, 14, block.norm1.normalized_shape[0])
    expected = block(x)
    outputs = []
    getattr(block, part).register_forward_hook(lambda module, arguments, output: outputs.append(output))
    with torch.inference_mode():
        torch.testing.assert_close(block(x), expected)
        branch = block.attn(block.norm1(x)) if part == "attn" else None
    assert outputs[0].shape == x.shape
    if branch is not None:
        torch.testing.assert_close(outputs[0], branch)
