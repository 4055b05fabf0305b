"""Fixtures for trainings in separate processes that tests wait for, stop and kill, and for comparing their weights."""

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
FORKS.set_forkserver_preload(PRELOADED)  # their import takes longer than a few training steps


class Training:
    """`twins train` on one thread, forked from a server process that has imported the packages.

    With `program`, a new Python starts, as for a user; several processes are started by PyTorch's launcher.
    Without `report`, a training in forked processes leaves its report out.
    """

    def __init__(
        self, output: Path, *arguments: str, processes: int = 1, program: tuple[str, ...] = (), report: bool = True
    ) -> None:
        self.output = output
        if program and processes > 1:
            program = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *program)
        settings = {"output": str(output), "program": program, "arguments": arguments, "report": report}
        self.processes = [
            FORKS.Process(
                target=runpy.run_path,
                args=(str(Path(__file__).with_name("forked.py")),),
                kwargs={"init_globals": {"SETTINGS": settings | {"environment": variables | {"OMP_NUM_THREADS": "1"}}}},
            )
            for variables in ([{}] if program else ranks(processes))
        ]
        for process in self.processes:
            process.start()

    def finish(self) -> str:
        """Wait until the training succeeds; return its output."""
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
        """Send SIGTERM; return the output."""
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
    """Return the environment variables that PyTorch's launcher would set for each process."""
    if processes == 1:
        return [{}]
    with socket.socket() as listener:
        port = 20000 + os.getpid() % 10000  # below the ports that systems assign automatically
        while listener.connect_ex(("127.0.0.1", port)) == 0:
            port += 1
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    return [world | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def trained_steps(run: Path) -> int:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return sum('"train"' in line for line in lines)


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Start a training; it is killed at the end of the session if it still runs."""
    started, folder = [], tmp_path_factory.mktemp("output")

    def start(*arguments: str, **settings) -> Training:
        started.append(Training(folder / f"{len(started)}.txt", *arguments, **settings))
        return started[-1]

    yield start
    for training in started:
        if any(process.is_alive() for process in training.processes):
            training.kill()


@pytest.fixture(scope="session")
def assert_equal_weights():
    """Compare the newest and the best weights of two runs bit for bit, buffers included."""

    def compare(first: Path, second: Path) -> None:
        for name in ("last/model.safetensors", "best.safetensors"):
            first_weights, second_weights = load_file(first / name), load_file(second / name)
            assert first_weights.keys() == second_weights.keys()
            for key, value in first_weights.items():
                assert torch.equal(value, second_weights[key]), f"{name}: {key}"

    return compare


@pytest.fixture(scope="module")
def one_thread():
    """Use one thread: more are not faster on small images, and the trainings in separate processes use one too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def few_digits():
    """Keep every twelfth of the embedded digits; 30 are held out."""
    from twins.data.formats import digits, scenes

    hold_out = digits.hold_out_per_class
    caches = (scenes._glyphs, scenes.draw_scene)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "hold_out_per_class", lambda *a, **s: tuple(part[::12] for part in hold_out(*a, **s)))
        for one in caches:  # scenes are made of digits
            one.cache_clear()
        yield
    for one in caches:
        one.cache_clear()


@pytest.fixture
def no_report(monkeypatch):
    """Skip the report, which takes as long as the few training steps of a test."""
    monkeypatch.setattr("twins.report.page.write_report", lambda run, *, device: None)


@pytest.fixture
def run_cli(capsys):
    """Run a command; returns exit code, stdout and stderr."""

    def run_cli(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run_cli


@pytest.fixture
def expect_error(run_cli):
    """Run a command that is refused with exit code 2 and one sentence; returns the sentence."""

    def expect_error(*arguments: object) -> str:
        code, _, stderr = run_cli(*arguments)
        assert code == 2, stderr
        assert "Traceback" not in stderr
        *said, sentence = stderr.splitlines()
        assert sentence.startswith("twins: ")
        assert not any(line.startswith("twins: ") for line in said)
        return sentence

    return expect_error


@pytest.fixture(scope="session")
def losses():
    """Return the losses of a run, in order."""
    return lambda run: [row["loss"] for row in read_rows(run, "train")]
