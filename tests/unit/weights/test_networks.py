"""The network is found in every wrapping that training codes leave; the average is taken and said, a key chooses."""

from __future__ import annotations

import pickletools
import sys
import types
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from PIL import Image

import twins
from twins.cli.main import main
from twins.errors import ConfigError, WeightsError
from twins.weights.dialects import from_twins
from twins.weights.files import read_tensors

NAME = "twins_svt_nano"


def _state(classes=3):
    return from_twins(twins.create_model(NAME, num_classes=classes).state_dict(), "timm")


@pytest.fixture(scope="module")
def flat():
    torch.manual_seed(0)
    return _state()


@pytest.fixture(scope="module")
def average():
    torch.manual_seed(1)
    return _state()


@pytest.fixture(scope="module")
def larger():
    return from_twins(twins.create_model("twins_pcpvt_nano", num_classes=3).state_dict(), "timm")


@pytest.fixture
def save(tmp_path):
    def save(content):
        torch.save(content, tmp_path / "c.pth")
        return tmp_path / "c.pth"

    return save


def _prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def _is(checkpoint, state):
    return checkpoint.tensors.keys() == state.keys() and all(
        torch.equal(value, state[name]) for name, value in checkpoint.tensors.items()
    )


def _message(path, error=WeightsError, **settings):
    with pytest.raises(error) as caught:
        read_tensors(path, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# One network, in any wrapping


WRAPPINGS = {
    "DataParallel": lambda flat: _prefixed("module.", flat),
    "compiled": lambda flat: {"model": _prefixed("_orig_mod.", flat)},
    "compiled and distributed": lambda flat: {"state_dict": _prefixed("module._orig_mod.", flat)},
    "FSDP": lambda flat: {"model": _prefixed("_fsdp_wrapped_module.", flat)},
    "AveragedModel": lambda flat: {"n_averaged": torch.tensor(7), **_prefixed("module.", flat)},
    "AveragedModel in a key": lambda flat: {"swa": {"n_averaged": torch.tensor(7), **_prefixed("module.", flat)}},
    "EMA alone": lambda flat: {"epoch": 1, "state_dict_ema": flat},
    "EMA of YOLO codes": lambda flat: {"ema": {"module": flat, "updates": torch.tensor(9)}, "model": None},
    "ema_pytorch": lambda flat: {
        "initted": torch.tensor(True),
        "step": torch.tensor(5),
        **_prefixed("ema_model.", flat),
    },
    "Lightning, net": lambda flat: {"state_dict": _prefixed("net.", flat)},
    "Lightning, encoder.body": lambda flat: {"state_dict": _prefixed("encoder.body.", flat)},
    "Lightning with a loss": lambda flat: {
        "state_dict": {**_prefixed("model.", flat), "criterion.weight": torch.ones(3)},
        "pytorch-lightning_version": "2.5",
    },
    "Lightning with a loss that has a matrix": lambda flat: {
        "state_dict": {**_prefixed("model.", flat), "arcface_loss.weight": torch.ones(3, 8)}
    },
    "Lightning with a perceptual loss": lambda flat: {
        "state_dict": {**_prefixed("net.", flat), "loss.vgg.features.0.weight": torch.ones(3, 3, 3, 3)}
    },
    "Lightning with metrics": lambda flat: {
        "state_dict": {
            **_prefixed("classifier.", flat),
            "train_acc.tp": torch.zeros(3),
            "val_metrics.confusion.confmat": torch.zeros(3, 3),
            "auroc.thresholds": torch.linspace(0, 1, 5),
            "val_map.table": torch.zeros(3, 3),
        }
    },
    "Lightning with class weights": lambda flat: {
        "state_dict": {**_prefixed("model.", flat), "class_weights": torch.ones(3)}
    },
    "the reference": lambda flat: {"model": flat, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "epoch": 9},
    "four dicts deep": lambda flat: {"checkpoint": {"weights": {"best": {"net": flat}}}},
    "accelerate": lambda flat: {"pytorch_model": flat, "step": 3},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_the_network_is_found_in_a_wrapping(wrapping, flat, save):
    checkpoint = read_tensors(save(WRAPPINGS[wrapping](flat)))
    assert _is(checkpoint, flat)
    assert checkpoint.network.others == checkpoint.network.beside == ()


def test_a_wrapped_safetensors_file_is_read(flat, tmp_path):
    from safetensors.torch import save_file

    contiguous = {name: value.contiguous() for name, value in flat.items()}
    save_file(_prefixed("module.net.", contiguous), tmp_path / "model.safetensors")
    assert _is(read_tensors(tmp_path / "model.safetensors"), flat)


def test_a_backbone_attribute_with_a_loss_beside_it_is_read(flat, save):
    path = save(
        {"state_dict": {**_prefixed("backbone.", flat), "criterion.weight": torch.ones(3), "acc.tp": torch.ones(3)}}
    )
    model = twins.create_model(NAME, weights=path)
    assert model.num_classes == 3
    assert torch.equal(model.head.weight, flat["head.weight"])
    assert model.load_report.left_out == ("acc.tp", "criterion.weight")


def test_a_dict_for_each_part_is_one_network(save):
    model = twins.create_model(NAME, num_classes=3)
    parts = {
        part: {
            name.removeprefix(f"{part}."): value for name, value in model.state_dict().items() if name.startswith(part)
        }
        for part in ("backbone", "norm", "head")
    }
    assert _is(read_tensors(save({**parts, "ema": {"rate": torch.ones(1)}})), model.state_dict())


@pytest.mark.parametrize("seed", range(25))
def test_any_nest_of_wrappings_is_opened(seed, flat, save):
    random = np.random.default_rng(seed)
    names = random.permutation([name for name in flat if name.startswith(("patch_embeds", "head"))])
    state = content = {name: flat[name] for name in names}
    for _ in range(random.integers(1, 4)):
        content = _prefixed(
            str(random.choice(["module.", "_orig_mod.", "model.", "net.", "x_y.", "encoder.body."])), content
        )
    beside = {
        "val_loss.weight": torch.ones(2, 2),
        "f1.tp": torch.ones(3),
        "n_averaged": torch.tensor(1),
        "w": torch.ones(2),
    }
    for name in random.permutation(list(beside))[: random.integers(5)]:
        content = {name: beside[name], **content} if random.random() < 0.5 else {**content, name: beside[name]}
    for _ in range(random.integers(4)):
        content = {"epoch": 3, str(random.choice(["model", "state_dict", "ema", "weights", "best"])): content}
    checkpoint = read_tensors(save(content))
    left = set(checkpoint.tensors) - set(state)
    assert left <= {"w"}  # beside a network without a prefix it may be a part of it
    assert all(torch.equal(checkpoint.tensors[name], value) for name, value in state.items())


def test_an_average_beside_a_network_without_a_prefix_is_taken(flat, average, save):
    path = save({**flat, **_prefixed("ema.", average)})
    checkpoint = read_tensors(path)
    assert _is(checkpoint, average)
    assert 'ema, the average, is used, not ""' in checkpoint.network.note(path)
    assert _is(read_tensors(path, key=""), flat)


def test_parts_of_compiled_and_checkpointed_modules_are_renamed(flat, save):
    names = {name: name.replace("blocks.0.0.", "blocks.0.0._checkpoint_wrapped_module.") for name in flat}
    names = {name: new.replace("patch_embeds.1.", "patch_embeds.1._orig_mod.") for name, new in names.items()}
    assert _is(read_tensors(save({names[name]: value for name, value in flat.items()})), flat)


# Several networks


AVERAGES = {
    "timm": lambda flat, average: {"state_dict": flat, "state_dict_ema": average},
    "the reference": lambda flat, average: {"model": flat, "model_ema": average},
    "ema": lambda flat, average: {"model": flat, "ema": {"module": average}},
    "ema_state_dict": lambda flat, average: {"state_dict": flat, "ema_state_dict": average},
    "mmengine, which swaps the two": lambda flat, average: {
        "state_dict": average,
        "ema_state_dict": {"steps": torch.tensor(9), **_prefixed("module.", flat)},
        "meta": {"mmengine_version": "0.10.4"},
    },
    "DINO": lambda flat, average: {
        "student": _prefixed("module.backbone.", flat),
        "teacher": _prefixed("backbone.", average),
    },
    "AveragedModel beside its network": lambda flat, average: {
        "model": flat,
        "swa": {"n_averaged": torch.tensor(3), **_prefixed("module.", average)},
    },
    "Lightning's callback": lambda flat, average: {
        "state_dict": _prefixed("model.", flat),
        "callbacks": {"EMACallback": {"ema_weights": _prefixed("model.", average)}},
    },
    "Lightning's averaging, which swaps the two": lambda flat, average: {
        "state_dict": _prefixed("model.", average),
        "current_model_state": _prefixed("model.", flat),
        "averaging_state": {"n_averaged": torch.tensor(3)},
    },
    "attributes": lambda flat, average: {
        "state_dict": {**_prefixed("model.", flat), **_prefixed("ema_model.module.", average)}
    },
    "camel case": lambda flat, average: {"net": flat, "netEMA": average},
    "ema_pytorch": lambda flat, average: {**_prefixed("online_model.", flat), **_prefixed("ema_model.", average)},
    "names without dots": lambda flat, average: {
        "state_dict": {
            **_prefixed("model.", flat),
            **{f"model_ema.{name.replace('.', '')}": value for name, value in average.items()},
            "model_ema.decay": torch.tensor(0.999),
            "model_ema.num_updates": torch.tensor(5),
        }
    },
    "a list without names": lambda flat, average: {
        "model": flat,
        "ema": {"decay": 0.999, "shadow_params": list(average.values())},
    },
}


@pytest.mark.parametrize("kind", AVERAGES)
def test_the_average_is_taken_and_said(kind, flat, average, save):
    path = save(AVERAGES[kind](flat, average))
    checkpoint = read_tensors(path)
    names = {name.removeprefix("backbone."): value for name, value in checkpoint.tensors.items()}
    assert all(torch.equal(names[name], value) for name, value in average.items())
    assert len(checkpoint.network.others) == 1
    note = checkpoint.network.note(path)
    assert f"{path} holds 2 networks: {checkpoint.network.key}" in note
    assert f"not {checkpoint.network.others[0]}" in note
    other = read_tensors(path, key=checkpoint.network.others[0])
    names = {name.removeprefix("backbone."): value for name, value in other.tensors.items()}
    assert all(torch.equal(names[name], value) for name, value in flat.items())


def test_mmcvs_buffers_with_the_current_weights_are_left_out(flat, average, save):
    copies = {f"ema_{name.replace('.', '_')}": value for name, value in flat.items()}
    assert _is(read_tensors(save({"state_dict": {**average, **copies}})), average)


def test_a_larger_teacher_is_no_average(flat, larger, save):
    checkpoint = read_tensors(save({"state_dict": {**_prefixed("student.", flat), **_prefixed("teacher.", larger)}}))
    assert _is(checkpoint, flat)
    assert checkpoint.network.others == ("state_dict.teacher",)


def test_a_network_under_two_names_is_one(flat, save):
    path = save({"state_dict": {**_prefixed("encoder.", flat), **_prefixed("wrapped.encoder.", flat)}})
    assert _is(read_tensors(path), flat)


def test_without_a_convention_the_keys_are_named(flat, average, save):
    path = save({"first": flat, "second": average})
    assert _message(path) == f"{path} holds 2 networks under first, second; choose one with `weights_key`"
    assert _is(read_tensors(path, key="second"), average)


@pytest.mark.parametrize("key", ["state_dict", "state_dict.net", "state_dict.net.module"])
def test_a_key_may_end_early_and_ignores_wrappers(key, flat, save):
    assert _is(read_tensors(save({"state_dict": _prefixed("net.", flat)}), key=key), flat)


@pytest.mark.parametrize("key", ["techer", "", "student.head", "x" * 300])
def test_a_wrong_key_is_answered_with_the_keys_that_hold_tensors(key, flat, average, save):
    message = _message(save({"student": flat, "teacher": average}), key=key)
    assert f"no network under the key {key!r}; the keys that hold tensors are student, teacher" in message
    assert ("did you mean teacher?" in message) == (key == "techer")


def test_a_key_for_a_file_of_ours_is_answered(tmp_path):
    twins.save_weights(twins.create_model(NAME, num_classes=2), tmp_path / "a.safetensors")
    message = _message(tmp_path / "a.safetensors", key="ema")
    assert "the keys that hold tensors are backbone, head, norm; leave `weights_key` out" in message


def test_a_file_with_tensors_but_no_network_names_their_keys(save):
    path = save({"generator": {"conv1.weight": torch.ones(3)}, "critic": {"weights": {"a": torch.ones(1)}}, "epoch": 1})
    assert _message(path).endswith("holds no Twins network; the keys that hold tensors are generator, critic.weights")
    assert set(read_tensors(path, key="generator").tensors) == {"conv1.weight"}


# What may be a part of the network


def test_a_layer_beside_the_network_is_refused_unless_a_key_leaves_it_out(flat, save):
    path = save({"state_dict": {**_prefixed("model.", flat), "projector.weight": torch.ones(8, 3)}})
    with pytest.raises(WeightsError, match=r"(?s)projector beside state_dict\.model.*`weights_key=.*unexpected \(1\)"):
        twins.load(path, device="cpu")
    predictor = twins.load(path, device="cpu", weights_key="state_dict.model")
    assert predictor.model.load_report.left_out == ("projector.weight",)
    assert twins.create_backbone(NAME, weights=path).load_report.left_out == ("projector.weight",)


@pytest.mark.parametrize("part", ["bn.weight", "logit_scale", "gamma"])
def test_a_norm_or_factor_beside_the_network_may_be_a_part_of_it(part, flat, save):
    checkpoint = read_tensors(save({"state_dict": {**_prefixed("model.", flat), part: torch.ones(3)}}))
    assert checkpoint.network.beside == (part,)


# Safely


class HistoryBuffer:
    """Stands for mmengine's class, which pickles as its module and name."""

    def __init__(self):
        self._log_history, self._count_history = np.ones(3), np.ones(3, dtype=np.int64)


def test_a_message_hub_is_read_without_its_package(flat, save, monkeypatch):
    module = types.ModuleType("mmengine.logging.history_buffer")
    monkeypatch.setitem(sys.modules, "mmengine", types.ModuleType("mmengine"))
    monkeypatch.setitem(sys.modules, "mmengine.logging", types.ModuleType("mmengine.logging"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(HistoryBuffer, "__module__", module.__name__)
    module.HistoryBuffer = HistoryBuffer
    hub = {"log_scalars": {"train/loss": HistoryBuffer()}, "runtime_info": {"iter": 5, "path": PurePosixPath("a")}}
    path = save({"meta": {"mmengine_version": "0.10.4"}, "message_hub": hub, "state_dict": flat})
    monkeypatch.undo()
    assert "mmengine.logging.history_buffer" not in sys.modules
    assert _is(read_tensors(path), flat)


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_scores_of_old_and_new_numpy_are_read(module, flat, tmp_path, save):
    import zipfile

    path = save({"state_dict": flat, "meta": {"score": np.float64(0.5), "history": np.ones(3)}})
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "other.pth", "w") as other:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith("data.pkl"):
                content = content.replace(b"numpy._core.multiarray", module.encode())
                assert any(module in str(argument) for _, argument, _ in pickletools.genops(content))
            other.writestr(name, content)
    assert _is(read_tensors(tmp_path / "other.pth"), flat)


# From the verbs and Python


def test_every_function_takes_a_key(flat, average, save, tmp_path):
    path = save({"student": flat, "teacher": average})
    for key, state in ((None, average), ("student", flat)):
        model = twins.create_model(NAME, weights=path, weights_key=key)
        backbone = twins.create_backbone(NAME, weights=path, weights_key=key)
        predictor = twins.load(path, device="cpu", weights_key=key)
        report = twins.load_weights(twins.create_model(NAME, num_classes=3), path, weights_key=key)
        assert report == model.load_report == predictor.model.load_report
        assert report.key == backbone.load_report.key == (key or "teacher")
        assert "other networks in the file (1)" in str(report)
        weight = state["patch_embeds.0.proj.weight"]
        for network in (model.backbone, backbone, predictor.model.backbone):
            assert torch.equal(network.stages[0].patch_embed.proj.weight, weight)
    with pytest.raises(ConfigError, match="give `weights=PATH`"):
        twins.create_model(NAME, weights_key="student")
    with pytest.raises(ConfigError, match="leave it out for a network"):
        twins.evaluate(model, "digits", twins.EvalConfig(weights_key="student"))


def test_convert_writes_the_chosen_network(flat, average, save, tmp_path, capsys):
    path = save({"student": flat, "teacher": average})
    assert main(["convert", str(path), str(tmp_path / "a.safetensors"), "--to", "timm"]) == 0
    assert "teacher, the average, is used, not student; --weights-key chooses" in capsys.readouterr().out
    assert _is(read_tensors(tmp_path / "a.safetensors"), average)
    words = ["convert", str(path), str(tmp_path / "b.pth"), "--to", "timm", "--weights-key", "student"]
    assert main(words) == 0
    assert _is(read_tensors(tmp_path / "b.pth"), flat)
    assert main([*words[:-1], "studen"]) == 2
    assert "the keys that hold tensors are student, teacher; did you mean student?" in capsys.readouterr().err


@pytest.mark.slow
def test_predict_eval_and_train_say_which_network_they_used(save, capsys, tmp_path):
    flat, average = _state(10), _state(10)
    path = save({"student": flat, "teacher": average})
    photo = tmp_path / "x.png"
    Image.new("RGB", (40, 40)).save(photo)
    common = ["--device", "cpu", "--weights-key", "student"]
    assert main(["predict", str(path), str(photo), *common]) == 0
    assert "student is used, not teacher" in capsys.readouterr().err
    out = tmp_path / "eval.json"
    assert (
        main(["eval", str(path), "--data", "digits", "--size", "32", "--val-share", "0.02", "--out", str(out), *common])
        == 0
    )
    assert "student is used, not teacher; --weights-key chooses" in capsys.readouterr().out
    assert '"weights_key": "student"' in out.read_text()
    settings = ["--model", NAME, "--max-steps", "1", "--size", "32", "--workers", "0", "--val-share", "0.02"]
    settings += ["--out", str(tmp_path / "run")]
    assert main(["train", "--data", "digits", "--weights", str(path), *settings, *common]) == 0
    assert "student is used, not teacher" in (tmp_path / "run" / "log.txt").read_text()
    assert "weights_key: student" in (tmp_path / "run" / "config.yaml").read_text()


# Weights that are not finite


@pytest.mark.parametrize(
    ("task", "value"),
    [("classification", -float("inf")), ("semantic", float("nan")), ("detection", float("inf"))],
)
def test_weights_that_are_not_finite_are_refused(task, value, tmp_path):
    model = twins.create_model(NAME, task=task, num_classes=3)
    name = list(model.state_dict())[-1]
    with torch.no_grad():
        model.state_dict()[name].view(-1)[0] = value
    path = tmp_path / "nan.safetensors"
    twins.save_weights(model, path)
    for read in (lambda: twins.load(path, device="cpu"), lambda: twins.create_model(NAME, task=task, weights=path)):
        with pytest.raises(
            WeightsError, match=rf"{path} holds weights that are not finite, first {name} \(1 of"
        ) as caught:
            read()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("task", ["classification", "semantic", "detection"])
def test_scores_that_overflow_are_refused(task, tmp_path, capsys):
    model = twins.create_model(NAME, task=task, num_classes=3)
    with torch.no_grad():
        for value in model.parameters():
            value.fill_(1e38)
    twins.save_weights(model, tmp_path / "large.safetensors")
    Image.new("RGB", (40, 40)).save(tmp_path / "x.png")
    words = ["predict", str(tmp_path / "large.safetensors"), str(tmp_path / "x.png"), "--device", "cpu"]
    assert main([*words, "--json", str(tmp_path / "x.json")]) == 2
    assert capsys.readouterr().err.startswith("twins: the network's scores are not finite")
    assert not (tmp_path / "x.json").exists()


def test_verbs_refuse_weights_that_are_not_finite(tmp_path, capsys):
    model = twins.create_model(NAME, num_classes=10)
    with torch.no_grad():
        model.head.bias[3] = float("nan")
    path = Path(tmp_path / "nan.safetensors")
    twins.save_weights(model, path)
    settings = ["--device", "cpu"]
    for words in (
        ["predict", str(path), str(path)],
        ["eval", str(path), "--data", "digits"],
        ["train", "--data", "digits", "--model", NAME, "--weights", str(path), "--out", str(tmp_path / "run")],
    ):
        assert main([*words, *settings]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"twins: {path} holds weights that are not finite, first head.bias (1 of 10 values)")
        assert error.count("\n") == 1
    with pytest.raises(WeightsError, match=r"the network holds weights that are not finite, first head\.bias"):
        twins.evaluate(model, "digits", twins.EvalConfig(device="cpu"))
    assert main(["convert", str(path), str(tmp_path / "copy.pth"), "--to", "timm"]) == 0  # it computes nothing
