from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from twins.engine.loading import load_batches
from twins.engine.signals import stop_on_signals
from twins.errors import DataError, TrainingError


class Numbers(Dataset[int]):
    def __init__(self, trouble: str = "") -> None:
        self.trouble = trouble

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        if index == 4 and self.trouble == "error":
            raise DataError("none of the images can be read")
        if index == 4 and self.trouble == "death":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.trouble == "signals":
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        return index


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def _loader(trouble: str) -> Any:
    return DataLoader(Numbers(trouble), batch_size=2, num_workers=1)


def test_an_error_in_a_loader_process_keeps_its_class_and_its_message() -> None:
    with pytest.raises(DataError) as caught:
        list(load_batches(lambda: _loader("error")))
    assert str(caught.value) == "none of the images can be read"


def test_a_loader_process_that_dies_raises_one_sentence() -> None:
    with pytest.raises(TrainingError, match="`workers`") as caught:
        list(load_batches(lambda: _loader("death")))
    assert "\n" not in str(caught.value)


def test_the_death_of_a_loader_process_is_reported_at_the_next_batch() -> None:
    batches = load_batches(lambda: _loader("death"))
    next(batches)
    (process,) = multiprocessing.active_children()
    process.join(30)
    time.sleep(0.1)  # torch's own signal handler would raise here
    with pytest.raises(TrainingError, match="a loading process died"):
        list(batches)


def test_signals_to_the_process_group_do_not_reach_loader_processes() -> None:
    with stop_on_signals():
        batches: list[Any] = list(load_batches(lambda: _loader("signals")))
    assert torch.cat(batches).tolist() == list(range(8))


@pytest.mark.slow
def test_a_busy_loader_process_does_not_keep_the_main_process_from_ending() -> None:
    busy = (
        "import time\n"
        "from torch.utils.data import DataLoader, Dataset, _utils\n"
        "from twins.engine.loading import load_batches\n"
        "_utils.MP_STATUS_CHECK_INTERVAL = 0.1\n"  # torch waits that long for a process that it has asked to end
        "class Slow(Dataset):\n"
        "    def __len__(self): return 8\n"
        "    def __getitem__(self, index): time.sleep(300 * (index > 0)); return index\n"
        "batches = load_batches(lambda: DataLoader(Slow(), batch_size=1, num_workers=1))\n"
        "next(batches)\n"
        "batches.close()\n"
    )
    done = _run(busy)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_loader_that_is_still_referenced_does_not_keep_the_process_from_ending() -> None:
    held = (
        "from torch.utils.data import DataLoader\n"
        "from twins.engine.loading import load_batches\n"
        "batches = load_batches(lambda: DataLoader(range(8), batch_size=1, num_workers=1))\n"
        "next(batches)\n"
        "kept = [batches]; kept.append(kept)\n"
        "raise ValueError('a mistake of ours')\n"
    )
    done = _run(held)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("ValueError: a mistake of ours")


@pytest.mark.slow
def test_a_garbage_collected_loader_ends_its_processes() -> None:
    cycle = (
        "import gc, multiprocessing\n"
        "from torch.utils.data import DataLoader\n"
        "from twins.engine.loading import load_batches\n"
        "kept = [load_batches(lambda: DataLoader(range(8), batch_size=1, num_workers=1))]\n"
        "next(kept[0])\n"
        "kept.append(kept)\n"
        "del kept\n"
        "gc.collect()\n"
        "assert not multiprocessing.active_children()\n"
    )
    done = _run(cycle)
    assert (done.returncode, done.stderr) == (0, "")
