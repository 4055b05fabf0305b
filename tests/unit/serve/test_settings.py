"""Settings, keys and names of a server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from twins.errors import ConfigError, NotFoundError
from twins.serve.config import ServeConfig
from twins.serve.keys import Keys
from twins.serve.sources import Source, parse_models


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.com", "127.evil.com"])
def test_a_server_without_keys_is_not_open_to_others_unless_told_so(host):
    with pytest.raises(ConfigError, match="`open`"):
        ServeConfig(host=host)
    assert ServeConfig(host=host, open=True).host == ServeConfig(host=host, api_keys="keys").host == host


@pytest.mark.parametrize("address", ["localhost:8080", "file:///etc", "ftp://host/", "http://", "label-studio"])
def test_images_are_fetched_over_http_alone(address):
    with pytest.raises(ConfigError, match="`label_studio` must be an address"):
        ServeConfig(label_studio=address)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_this_machine_alone_needs_no_keys(host):
    assert ServeConfig(host=host)


@pytest.mark.parametrize(
    "settings",
    [
        {"workers": 0},
        {"workers": 1.5},
        {"port": 70000},
        {"max_delay_ms": -1},
        {"max_megabytes": 0},
        {"grace": float("nan")},
        {"threads": 0},
        {"max_images": 9, "max_queue": 8},
    ],
)
def test_a_setting_out_of_range_is_refused(settings):
    with pytest.raises(ConfigError, match=f"`{next(iter(settings))}`"):
        ServeConfig(**settings)


def test_keys_are_read_again_when_their_file_changes(tmp_path):
    file = tmp_path / "keys.txt"
    file.write_bytes(b"\xef\xbb\xbffirst \n\n# ours\nsecond\n")
    keys = Keys(file)
    assert [keys.accepts(key) for key in ("first", "second", "", "# ours", "third")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert "first" not in repr(vars(keys))
    file.write_text("third\n")
    os.utime(file, ns=(1, 1))
    assert [keys.accepts(key) for key in ("first", "third")] == [False, True]
    file.unlink()
    assert keys.accepts("third")


def test_a_file_without_keys_is_refused(tmp_path):
    (tmp_path / "empty").write_text("\n# none\n")
    with pytest.raises(ConfigError, match="holds none"):
        Keys(tmp_path / "empty")
    (tmp_path / "umlaut").write_text("schl\u00fcssel", encoding="utf-8")
    with pytest.raises(ConfigError, match="ASCII"):
        Keys(tmp_path / "umlaut")
    with pytest.raises(NotFoundError, match="no file of keys"):
        Keys(tmp_path / "missing")


def test_models_get_the_name_of_their_run_their_file_or_their_own(tmp_path):
    run, file = tmp_path / "cats", tmp_path / "dogs.v2.onnx"
    run.mkdir()
    file.touch()
    words = [str(run), str(file), f"new={run}", "timm/twins_svt_small.in1k"]
    assert [source.name for source in parse_models(words)] == ["cats", "dogs.v2", "new", "twins_svt_small.in1k"]
    with pytest.raises(ConfigError, match=r"have the name cats; give names, such as new="):
        parse_models([str(run), str(run)])
    with pytest.raises(ConfigError, match="no model is named"):
        parse_models([])


def test_a_copy_stays_as_it_was_when_the_file_changes(tmp_path):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"old")
    source = Source("m", str(file))
    state = source.state()
    copy = source.copy(tmp_path)
    file.write_bytes(b"new and longer")
    assert Path(copy).read_bytes() == b"old"
    assert source.state() not in (state, ())
    file.unlink()
    assert source.state() == ()
