"""The `twins` command: finds the verb, runs it, and answers a user's mistake in one sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module

from twins.errors import TwinsError, nearest

VERBS = {
    "models": "list the networks: parameters, multiply-adds, published accuracy",
    "recipes": "list the training recipes",
    "doctor": "print versions, devices and which kernels serve here, for a bug report too",
    "demo": "train on embedded images for a few minutes at most and show the result",
    "check": "read a data set before training and report its problems",
    "train": "train a network on a folder of images, or resume a run",
    "eval": "evaluate a trained network on a data set, or score a COCO results file",
    "predict": "run a trained network on images or videos",
    "convert": "write a weight file in another layout",
    "bench": "measure speed and memory on this machine, also against timm",
}
"""Each verb is a module of its name here: `run` takes its arguments, and `ARGS` is the dataclass they fill."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 well, 1 problems found, 2 a mistake, 130 interrupted."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] in ("-V", "--version"):
        from twins import __version__

        print(f"twins {__version__}")
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        hint = nearest(verb, VERBS) or f"; the verbs are {', '.join(VERBS)}"
        return _mistake(f"there is no verb {verb!r}{hint}")
    module = import_module(f"twins.cli.{verb}")
    from twins.cli.parse import stderr_in_flags

    with stderr_in_flags(module.ARGS):
        return _run(module.run, rest)


def _run(run: Callable[[list[str]], int], arguments: list[str]) -> int:
    try:
        return run(arguments)
    except TwinsError as error:
        return _mistake(str(error))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read has gone: not our mistake
        return 0
    except SystemExit as stop:  # --help of a verb
        return int(stop.code or 0)


def _help() -> str:
    lines = ["usage: twins VERB ...", "", "The Twins vision transformers, from a folder of images to a result.", ""]
    lines += [f"  {verb:<9} {what}" for verb, what in VERBS.items()]
    lines += ["", "  -h, --help     print this, or after a verb its options", "  -V, --version  print the version"]
    return "\n".join([*lines, "", "start with: twins demo"])


def _mistake(sentence: str) -> int:
    print(f"twins: {sentence}", file=sys.stderr)
    return 2
