"""Private names of PyTorch stand in one file, and the installed PyTorch has each of them."""

from __future__ import annotations

import re
from functools import reduce
from importlib import import_module
from pathlib import Path

import pytest
import torch

import twins
from twins.ops import private_torch

SOURCE = Path(twins.__file__).parent
TEXT = Path(private_torch.__file__).read_text()
PRIVATE = re.compile(r"\btorch(?:\.\w+)*\._[a-z]\w*(?:\.\w+)*|\btorch\._C(?:\.\w+)+")
NAMES = sorted(set(PRIVATE.findall(TEXT)))


@pytest.mark.parametrize("name", [name for name in NAMES if "._inductor" not in name])
def test_this_pytorch_has_the_name(name):
    if "mkldnn" in name and not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    reduce(getattr, name.split(".")[1:], torch)


def test_this_pytorch_has_the_names_that_are_no_attributes_of_torch():
    assert hasattr(torch.zeros(1), "_version")
    assert all(hasattr(torch.nn.Identity(), name) for name in ("_forward_hooks", "_forward_pre_hooks"))
    assert import_module("torch._inductor.runtime.cache_dir_utils").default_cache_dir()


def test_they_stand_in_one_file():
    assert len(NAMES) > 10
    for folder in ("ops", "backbone"):
        for path in (SOURCE / folder).rglob("*.py"):
            if path.name != "private_torch.py":
                code = re.sub(r'""".*?"""', "", path.read_text(), flags=re.DOTALL)
                assert not PRIVATE.findall(code), path
                assert not re.search(r"\._(version|forward_hooks|forward_pre_hooks)\b|mkldnn\.", code), path
