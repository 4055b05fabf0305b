"""What runs share: trainings in processes of their own that can be waited for and stopped, and weights to compare."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from twins.cli.main import main
from twins.engine.log import read_rows


class Training:
    """`twins train` as a user types it, on one thread; `program` is what Python is to run."""

    def __init__(self, *arguments: str, processes: int = 1, program: tuple[str, ...] = ("-m", "twins")) -> None:
        launcher = [sys.executable]
        if processes > 1:
            launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        self.process = subprocess.Popen(
            [*launcher, *program, "train", *arguments],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self) -> str:
        """Wait for a good end; return what was said."""
        output, _ = self.process.communicate(timeout=300)
        assert self.process.returncode == 0, output
        return output

    def wait_for_step(self, run: Path, step: int) -> None:
        end = time.monotonic() + 240
        while trained_steps(run) < step:
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < end, "the run made no step"
            time.sleep(0.02)

    def ask_to_stop(self) -> str:
        """Send SIGTERM; return what was said."""
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=120)
        return output

    def kill(self) -> None:
        """Send SIGKILL to every process of the run at once."""
        family = []
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.process.pid)
            family = [parent, *parent.children(recursive=True)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        self.process.communicate(timeout=60)


def trained_steps(run: Path) -> int:
    records = run / "metrics.jsonl"
    lines = records.read_text().splitlines() if records.exists() else []
    return sum('"train"' in line for line in lines)


@pytest.fixture(scope="session")
def start():
    """Start a training; whatever still runs in the end is ended."""
    started: list[Training] = []

    def start(*arguments: str, **settings) -> Training:
        started.append(Training(*arguments, **settings))
        return started[-1]

    yield start
    for training in started:
        if training.process.poll() is None:
            training.kill()


@pytest.fixture(scope="session")
def assert_same_weights():
    """Compare the newest and the best weights of two runs to the bit, buffers included."""

    def compare(first: Path, second: Path) -> None:
        for name in ("last/model.safetensors", "best.safetensors"):
            one, other = load_file(first / name), load_file(second / name)
            assert one.keys() == other.keys()
            for key, value in one.items():
                assert torch.equal(value, other[key]), f"{name}: {key}"

    return compare


@pytest.fixture(scope="module")
def one_thread():
    """On images this small a second thread only waits; and so numbers are those of the processes that runs start."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def type_in(capsys):
    """Type a command; returns the exit code, what was printed, and what was said on the side."""

    def type_in(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return type_in


@pytest.fixture
def refused(type_in):
    """Expect a mistake: exit code 2 and one sentence, which is returned."""

    def refused(*arguments: object) -> str:
        code, _, said = type_in(*arguments)
        assert code == 2, said
        assert "Traceback" not in said
        (sentence,) = (line for line in said.splitlines() if not line.startswith(("skipped: ", "note: ")))
        assert sentence.startswith("twins: ")
        return sentence

    return refused


@pytest.fixture(scope="session")
def losses():
    """Return the losses of a run, in order."""
    return lambda run: [row["loss"] for row in read_rows(run, "train")]
