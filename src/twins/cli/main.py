"""The `twins` command: runs the verb and answers a user's mistake in one sentence."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from importlib import import_module

from twins.errors import TwinsError, nearest

VERBS = {
    "models": "list the networks: parameters, multiply-adds, published accuracy",
    "recipes": "list the training recipes",
    "doctor": "print versions, devices and the kernels in use, for example for a bug report",
    "demo": "train on embedded images, about one to five minutes on two cores, and show the result",
    "check": "report the problems of a data set before training",
    "train": "train a network on a folder of images, or resume a run",
    "eval": "evaluate a trained network on a data set, or score a COCO results file",
    "compare": "compare runs of one task: metrics, curves, settings, and images they disagree on",
    "predict": "run a trained network on images or videos",
    "export": "write a trained network as one verified file: ONNX, OpenVINO or torch.export",
    "serve": "answer predictions over HTTP, for one trained network or several",
    "convert": "write a weight file in another layout",
    "bench": "measure speed and memory on this machine, alone or against timm",
    "completion": "print a script that completes commands in bash, zsh or fish",
}
"""What each verb does. Its module, `twins.cli.<verb>`, has `run(arguments)` and `ARGS`, the dataclass they fill."""
_HELP = {"-h", "--help", "--help-all"}


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0 is success, 1 problems found, 2 a user's mistake, 130 an interruption.
    """
    _open_streams()
    try:
        code = _answer(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader, such as `head`, closed the pipe
        return 0
    return code


def _answer(arguments: list[str]) -> int:
    """Print help or the version, or run a verb; return the exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] in ("-V", "--version", "version"):
        from twins import __version__

        print(f"twins {__version__}")
        return 0
    verb, verb_arguments = arguments[0], arguments[1:]
    if verb not in VERBS:
        hint = nearest(verb, VERBS) or f"; the verbs are {', '.join(VERBS)}"
        return _mistake(f"there is no verb {verb!r}{hint}")
    module = import_module(f"twins.cli.{verb}")
    if _HELP.intersection(verb_arguments):
        from twins.cli.help import print_help

        print_help(verb, VERBS[verb], module.ARGS, everything="--help-all" in verb_arguments)
        return 0
    from twins.cli.parse import stderr_in_flags

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold bytes that are no text
    with stderr_in_flags(module.ARGS):
        return _run(module.run, verb_arguments)


def _open_streams() -> None:
    """Let standard streams that a shell closed (`>&-`, services) lead to nowhere, as the null device."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (open until the process ends)


def _run(run: Callable[[list[str]], int], arguments: list[str]) -> int:
    try:
        return run(arguments)
    except TwinsError as error:
        return _mistake(str(error))
    except KeyboardInterrupt:
        return 130


def _help() -> str:
    lines = ["usage: twins VERB ...", "", "Train and use the Twins vision transformers.", ""]
    lines += [f"  {verb:<10} {summary}" for verb, summary in VERBS.items()]
    lines += ["", "  twins VERB --help      examples and the options that are used most; --help-all has all of them"]
    return "\n".join([*lines, "  twins --version        the version; also -V", "", "start with: twins demo"])


def _mistake(sentence: str) -> int:
    print(f"twins: {sentence}", file=sys.stderr)
    return 2
