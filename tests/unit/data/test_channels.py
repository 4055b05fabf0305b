"""Networks for one or many channels read grey images, bands, pages and arrays, and refuse other numbers of channels."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import twins
from twins.bands import Bands
from twins.cli.main import main
from twins.data.channels import open_channels
from twins.data.images import open_image
from twins.errors import DataError, InputError, NotFoundError, WeightsError
from twins.factory import model_from_checkpoint
from twins.preprocess import Preprocess


def noise(height: int, width: int, channels: int, seed: int = 0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def grey_files(folder):
    """Return files of the same picture in the forms in which grey is saved."""
    pixels = noise(40, 50, 1)[:, :, 0]
    pictures = {
        "l.png": Image.fromarray(pixels),
        "rgb.png": Image.fromarray(pixels).convert("RGB"),
        "palette.png": Image.fromarray(pixels).convert("P"),
        "la.png": Image.merge("LA", (Image.fromarray(pixels), Image.new("L", (50, 40), 255))),
        "16.png": Image.fromarray(pixels.astype(np.uint16) * 257),
        "float.tif": Image.fromarray(pixels.astype(np.float32) / 255),
    }
    for name, picture in pictures.items():
        picture.save(folder / name)
    np.save(folder / "a.npy", pixels)
    np.savez(folder / "a.npz", image=pixels[:, :, None] / 255)
    return pixels, [folder / name for name in (*pictures, "a.npy", "a.npz")]


def test_one_channel_is_grey_whatever_the_file(tmp_path):
    pixels, paths = grey_files(tmp_path)
    for source in (*paths, pixels, torch.from_numpy(pixels)[None], Image.fromarray(pixels)):
        image = open_channels(source, 1)
        assert isinstance(image, Image.Image)
        assert image.mode == "L"
        assert (np.asarray(image) == pixels).all()
    assert (np.asarray(open_channels(np.full((4, 4, 3), (255, 0, 0), np.uint8), 1)) == 76).all()


def test_three_channels_are_opened_as_ever_and_from_numpys_files(tmp_path):
    pixels = noise(20, 30, 3)
    np.save(tmp_path / "a.npy", pixels)
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "a.png")
    for source in (tmp_path / "a.npy", tmp_path / "a.png", pixels):
        assert (np.asarray(open_channels(source, 3)) == np.asarray(open_image(pixels))).all()


@pytest.mark.parametrize(("mode", "ending"), [("LA", "png"), ("RGBA", "png"), ("CMYK", "tif")])
def test_the_bands_of_a_file_are_its_channels(tmp_path, mode, ending):
    channels = len(mode)
    pixels = noise(20, 30, channels)
    Image.fromarray(pixels, mode).save(tmp_path / f"a.{ending}")
    for source in (tmp_path / f"a.{ending}", Image.fromarray(pixels, mode)):
        image = open_channels(source, channels)
        assert isinstance(image, Bands)
        assert (image.to_array() == pixels).all()


def test_the_grey_pages_of_a_tiff_are_its_channels(tmp_path):
    pixels = noise(20, 30, 12)
    pages = [Image.fromarray(pixels[:, :, i]) for i in range(12)]
    pages[3] = Image.fromarray(pixels[:, :, 3].astype(np.uint16) * 257)
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert (open_channels(tmp_path / "a.tif", 12).to_array() == pixels).all()
    pages[5] = pages[5].convert("F")
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(
        DataError, match=r"page 6 of .*a\.tif has 30 x 20 pixels of mode F; pages that are the channels"
    ):
        open_channels(tmp_path / "a.tif", 12)


def test_arrays_and_tensors_of_any_number_of_channels_agree(tmp_path):
    pixels = noise(20, 30, 12)
    np.save(tmp_path / "a.npy", pixels)
    np.savez(tmp_path / "a.npz", pixels / 255)
    image = open_channels(pixels, 12)
    for source in (
        pixels / 255,
        torch.from_numpy(pixels).permute(2, 0, 1),
        tmp_path / "a.npy",
        tmp_path / "a.npz",
        image,
    ):
        assert (open_channels(source, 12).to_array() == pixels).all()


def test_an_upright_image_is_made_of_a_turned_one(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = noise(20, 30, 4)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png", exif=exif)
    assert (open_channels(tmp_path / "a.png", 4).to_array() == np.rot90(pixels, -1)).all()


@pytest.mark.parametrize(
    ("source", "channels", "message"),
    [
        (noise(8, 8, 3), 4, r"takes images of 4 channels, \(H, W, 4\), found \(8, 8, 3\)"),
        (noise(8, 8, 12), 4, r"takes images of 4 channels, \(H, W, 4\), found \(8, 8, 12\)"),
        (torch.zeros(3, 8, 8), 12, r"takes images of 12 channels, \(12, H, W\), found \(3, 8, 8\)"),
        (noise(8, 8, 12).astype(np.uint16), 12, "must be uint8 or float, found uint16"),
        (noise(8, 8, 12) * 1.0, 12, r"values in 0\.\.1"),
        (Image.new("RGB", (8, 8)), 4, "the image has 3 channels, the network takes 4; give images of 4 channels"),
        (Bands.from_array(noise(8, 8, 12)), 4, "the image has 12 channels, the network takes 4"),
        (Bands.from_array(noise(8, 8, 12)), 3, "the image has 12 channels, the network takes 3"),
        (5, 4, "found int"),
    ],
)
def test_another_number_of_channels_is_refused_with_both_numbers(source, channels, message):
    with pytest.raises(InputError, match=message):
        open_channels(source, channels)


def test_files_of_another_number_of_channels_are_refused_by_name(tmp_path):
    Image.fromarray(noise(8, 8, 3)).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", noise(8, 8, 5))
    np.savez(tmp_path / "two.npz", a=noise(8, 8, 4), b=noise(8, 8, 4))
    (tmp_path / "bad.npy").write_bytes(b"no array")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    for name, message in {
        "a.png": "a.png has 3 channels, the network takes 4",
        "a.npy": r"a.npy: the network takes images of 4 channels, \(H, W, 4\), found \(8, 8, 5\)",
        "two.npz": "two.npz must hold one array, found 2: a, b",
        "bad.npy": "bad.npy is no array, or damaged",
        "objects.npy": "objects.npy is no array, or damaged",
    }.items():
        with pytest.raises(DataError, match=message):
            open_channels(tmp_path / name, 4)
    with pytest.raises(NotFoundError, match="there is no image"):
        open_channels(tmp_path / "none.npy", 4)


def saved(folder, channels, **settings):
    torch.manual_seed(0)
    network = twins.create_model("twins_svt_nano", num_classes=2, names=("a", "b"), in_chans=channels, **settings)
    twins.save_weights(network, folder / "network.safetensors")
    return network.eval(), folder / "network.safetensors"


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 2, 4, 12])
def test_a_saved_network_predicts_on_images_of_its_channels(tmp_path, channels):
    network, path = saved(tmp_path, channels, preprocess=Preprocess(size=64))
    pixels = noise(90, 70, channels)
    predictor = twins.load(path, device="cpu")
    assert predictor.model.info.preprocess == Preprocess(size=64).for_channels(channels)
    planes = [Preprocess(size=64).pixels(Image.fromarray(pixels[:, :, [i] * 3]))[:1] for i in range(channels)]
    constants = [
        torch.tensor(values).view(-1, 1, 1) for values in (network.info.preprocess.mean, network.info.preprocess.std)
    ]
    with torch.inference_mode():
        expected = network(((torch.cat(planes) / 255 - constants[0]) / constants[1])[None]).softmax(1)[0]
    (prediction,) = predictor.predict(pixels)
    scores = torch.from_numpy(prediction.scores)
    torch.testing.assert_close(scores, expected[prediction.labels.tolist()], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("inference", [{"flip": True}, {"tile": 64}, {"window": 32}])
@pytest.mark.parametrize("channels", [1, 12])
def test_a_semantic_network_of_many_channels_has_all_inference_settings(channels, inference):
    preprocess = Preprocess(size=64, fit="keep", longest=128, interpolation="bilinear")
    network = twins.create_model(
        "twins_svt_nano", task="semantic", num_classes=3, in_chans=channels, preprocess=preprocess
    )
    predictor = twins.predictor.Predictor(network, device="cpu", inference=twins.InferenceConfig(**inference))
    (prediction,) = predictor.predict(noise(70, 90, channels))
    assert prediction.label_map.shape == (70, 90)


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "ending"), [(1, "tif"), (4, "tif"), (12, "npy")])
def test_the_command_line_predicts_and_draws_images_of_a_networks_channels(tmp_path, channels, ending, capsys):
    _, path = saved(tmp_path, channels, preprocess=Preprocess(size=64))
    file, other = tmp_path / f"a.{ending}", tmp_path / "other.npy"
    if channels == 1:
        Image.fromarray(noise(40, 50, 1)[:, :, 0].astype(np.float32) / 255).save(file)
    elif channels == 4:
        Image.fromarray(noise(40, 50, 4), "CMYK").save(file)
    else:
        np.save(file, noise(40, 50, channels))
    np.save(other, noise(40, 50, 7))
    words = ["predict", str(path), str(file), "--out", str(tmp_path / "out"), "--json", str(tmp_path / "a.json")]
    assert main([*words, "--device", "cpu"]) == 0
    assert (tmp_path / "out" / "a.png").is_file()
    (prediction,) = json.loads((tmp_path / "a.json").read_text())["predictions"]
    assert prediction["size"] == [40, 50]
    assert main(["predict", str(path), str(other), "--device", "cpu"]) == 1
    assert "(40, 50, 7)" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (4, "CMYK")])
def test_a_network_is_evaluated_on_images_of_its_channels(tmp_path, channels, mode):
    network, path = saved(tmp_path, channels, preprocess=Preprocess(size=32))
    for number in range(4):
        file = tmp_path / "data" / "val" / "ab"[number % 2] / f"{number}.tif"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = noise(40, 40, channels, seed=number)
        Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels, mode).save(file)
    result = twins.evaluate(path, tmp_path / "data", twins.EvalConfig(device="cpu"))
    predictor = twins.load(path, device="cpu")
    files = sorted((tmp_path / "data").rglob("*.tif"))
    hits = [
        prediction.names[prediction.labels[0]] == file.parent.name
        for file, prediction in zip(files, predictor.predict(files), strict=True)
    ]
    assert result.metrics["top1"] == np.mean(hits)
    assert result.protocol["mean"] == list(network.info.preprocess.mean)


def test_a_set_of_another_number_of_channels_is_refused(tmp_path):
    _, path = saved(tmp_path, 4, preprocess=Preprocess(size=32))
    for number in range(4):
        file = tmp_path / "data" / "val" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(40, 40, 3, seed=number)).save(file)
    with pytest.raises(DataError, match=r"4 of 4 images cannot be read.*has 3 channels, the network takes 4"):
        twins.evaluate(path, tmp_path / "data", twins.EvalConfig(device="cpu"))


@pytest.mark.slow
def test_weights_for_rgb_are_adapted_as_in_timm_and_others_are_refused(tmp_path):
    from timm.models import adapt_input_conv

    rgb, path = saved(tmp_path, 3)
    name = "backbone.stages.0.patch_embed.proj.weight"
    for channels in (1, 2, 4, 12):
        network = twins.create_model("twins_svt_nano", num_classes=2, weights=path, in_chans=channels)
        expected = adapt_input_conv(channels, rgb.state_dict()[name])
        torch.testing.assert_close(network.state_dict()[name], expected, rtol=0, atol=1e-7)
        assert network.load_report.adapted == (name,)
        backbone = twins.create_backbone("twins_svt_nano", weights=path, in_chans=channels)
        torch.testing.assert_close(backbone.state_dict()[name.removeprefix("backbone.")], expected, rtol=0, atol=1e-7)
    (tmp_path / "four").mkdir()
    _, four = saved(tmp_path / "four", 4)
    with pytest.raises(WeightsError, match=r"for images of 4 channels, this one takes 3; build it with `in_chans=4`"):
        twins.create_model("twins_svt_nano", num_classes=2, weights=four)
    with pytest.raises(WeightsError, match="mis-shaped"):  # loading into a network is strict
        twins.load_weights(twins.create_model("twins_svt_nano", num_classes=2, in_chans=4), path)


def test_files_of_older_versions_whose_constants_are_those_of_rgb_are_read(tmp_path):
    network, path = saved(tmp_path, 4)
    network.info = twins.weights.info.ModelInfo(**(vars(network.info) | {"preprocess": Preprocess()}))
    twins.save_weights(network, path)
    assert model_from_checkpoint(path).info.preprocess == Preprocess().for_channels(4)
