"""What runs share: trainings in processes of their own that can be waited for and stopped, and weights to compare."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import socket
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from twins.cli.main import main
from twins.engine.log import read_rows

PRELOADED = ["twins.cli.train", "twins.training", "accelerate", "torch._dynamo", "torchvision.transforms.v2"]
PRELOADED += ["torchmetrics.functional.classification", "scipy.stats", "sklearn.datasets"]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(PRELOADED)  # which take longer to import than a few steps to train


class Training:
    """`twins train` on one thread; processes are forked from one that has imported what they need.

    With `program`, Python starts from nothing as it does for a user, several processes by PyTorch's launcher.
    """

    def __init__(self, output: Path, *arguments: str, processes: int = 1, program: tuple[str, ...] = ()) -> None:
        self.output = output
        if program and processes > 1:
            program = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *program)
        given = {"output": str(output), "program": program, "arguments": arguments}
        self.processes = [
            FORKS.Process(
                target=runpy.run_path,
                args=(str(Path(__file__).with_name("forked.py")),),
                kwargs={"init_globals": {"GIVEN": given | {"environment": own | {"OMP_NUM_THREADS": "1"}}}},
            )
            for own in ([{}] if program else ranks(processes))
        ]
        for process in self.processes:
            process.start()

    def finish(self) -> str:
        """Wait for a good end; return what was said."""
        output = self._end(300)
        assert [process.exitcode for process in self.processes] == [0] * len(self.processes), output
        return output

    def wait_for_step(self, run: Path, step: int) -> None:
        end = time.monotonic() + 240
        while trained_steps(run) < step:
            assert all(process.is_alive() for process in self.processes), self.output.read_text()
            assert time.monotonic() < end, "the run made no step"
            time.sleep(0.02)

    def ask_to_stop(self) -> str:
        """Send SIGTERM; return what was said."""
        for process in self.processes:
            process.terminate()
        return self._end(120)

    def kill(self) -> None:
        """Send SIGKILL to every process of the run at once."""
        family = []
        for process in self.processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                parent = psutil.Process(process.pid)
                family += [parent, *parent.children(recursive=True)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        self._end(60)

    def _end(self, seconds: float) -> str:
        for process in self.processes:
            process.join(seconds)
            assert not process.is_alive(), self.output.read_text()
        return self.output.read_text()


def ranks(processes: int) -> list[dict[str, str]]:
    """Return what PyTorch's launcher would tell each process of its place."""
    if processes == 1:
        return [{}]
    with socket.socket() as listener:
        port = 20000 + os.getpid() % 10000  # below those that systems give to whoever asks for any
        while listener.connect_ex(("127.0.0.1", port)) == 0:
            port += 1
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    return [world | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def trained_steps(run: Path) -> int:
    records = run / "metrics.jsonl"
    lines = records.read_text().splitlines() if records.exists() else []
    return sum('"train"' in line for line in lines)


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Start a training; whatever still runs in the end is ended."""
    started, folder = [], tmp_path_factory.mktemp("said")

    def start(*arguments: str, **settings) -> Training:
        started.append(Training(folder / f"{len(started)}.txt", *arguments, **settings))
        return started[-1]

    yield start
    for training in started:
        if any(process.is_alive() for process in training.processes):
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
def no_report(monkeypatch):
    """Leave out the report, which takes as long as the few steps whose weights a test is about."""
    monkeypatch.setattr("twins.report.page.write_report", lambda run, *, device: None)


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
