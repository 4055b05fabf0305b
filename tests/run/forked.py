"""One training of `conftest.py`: run by its path, in a process that was forked for it, with GIVEN."""

from __future__ import annotations

import os
import runpy
import sys

given = globals()["GIVEN"]
os.setsid()
said = os.open(given["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(said, 1)
os.dup2(said, 2)
os.environ.update(given["environment"])
sys.argv = ["twins", "train", *given["arguments"]]
if given["program"]:
    os.execv(sys.executable, [sys.executable, *given["program"], *sys.argv[1:]])
runpy.run_module("twins", run_name="__main__", alter_sys=True)
