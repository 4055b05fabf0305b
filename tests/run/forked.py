"""One training of `conftest.py`: this file is run in a forked process, with the global SETTINGS."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys

settings = globals()["SETTINGS"]
multiprocessing.set_start_method(None, force=True)  # not this process's own, by which each loading process imports anew
os.setsid()
output = os.open(settings["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(output, 1)
os.dup2(output, 2)
os.environ.update(settings["environment"])
sys.argv = ["twins", "train", *settings["arguments"]]
if settings["program"]:
    os.execv(sys.executable, [sys.executable, *settings["program"], *sys.argv[1:]])
if not settings["report"]:
    from twins.report import page

    page.write_report = lambda run, *, device: None
runpy.run_module("twins", run_name="__main__", alter_sys=True)
