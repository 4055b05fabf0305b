"""Build the wheel and the source archive, install the wheel in a clean environment, and run the demo there.

`make build` runs this. It takes some ten minutes: pip installs PyTorch anew (from its cache after the first time), and
the demo learns for one to five minutes. The checked files are left in `dist/`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST, WORK = ROOT / "dist", ROOT / "build"
EXPECTED = ("twins/__init__.py", "twins/py.typed", "twins/data/tables/coco.csv", "LICENSE", "NOTICE")
FOREIGN = ("tests", "docs", "benchmarks", "scripts", "hubconf")


def main() -> None:
    for folder in (DIST, WORK):
        shutil.rmtree(folder, ignore_errors=True)
    run(sys.executable, "-m", "build", "--sdist", "--wheel", "--outdir", DIST, ROOT)
    (wheel,), (archive,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    check_contents(wheel)
    check_archive(archive, wheel)
    twins = install(wheel)
    with tempfile.TemporaryDirectory() as empty:
        check_program(twins, Path(empty), version=wheel.name.split("-")[1])
    shutil.rmtree(WORK)
    print(f"checked: {wheel.relative_to(ROOT)} and {archive.relative_to(ROOT)}")


def check_contents(wheel: Path) -> None:
    """Compare the wheel's files with the source tree: the package, its data and licences, and nothing else."""
    files = set(contents(wheel))
    source = {path for path in (ROOT / "src").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    expect(files >= {path.relative_to(ROOT / "src").as_posix() for path in source}, "the wheel lacks files of src/")
    for name in EXPECTED:
        expect(any(file == name or file.endswith(f"/{name}") for file in files), f"the wheel lacks {name}")
    strangers = sorted(file for file in files if file.startswith(FOREIGN) or file.endswith(".pyc"))
    expect(not strangers, f"the wheel holds {', '.join(strangers[:5])}")


def check_archive(archive: Path, wheel: Path) -> None:
    """Build the wheel again from the source archive and compare the two, file by file."""
    unpacked = WORK / "sdist"
    with tarfile.open(archive) as files:
        files.extractall(unpacked, filter="data")
    (source,) = unpacked.iterdir()
    run(sys.executable, "-m", "build", "--wheel", "--outdir", WORK / "wheel", source)
    (rebuilt,) = (WORK / "wheel").glob("*.whl")
    expect(contents(rebuilt) == contents(wheel), "the source archive builds another wheel than the source tree")


def contents(wheel: Path) -> dict[str, int]:
    """Return the files of a wheel with their checksums."""
    with zipfile.ZipFile(wheel) as files:
        return {file.filename: file.CRC for file in files.infolist()}


def install(wheel: Path) -> Path:
    """Install a wheel and what it depends on in an empty environment; return the path of its `twins` command."""
    environment = WORK / "venv"
    run(sys.executable, "-m", "venv", "--clear", environment)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    run(python, "-m", "pip", "check")
    return environment / "bin" / "twins"


def check_program(twins: Path, folder: Path, *, version: str) -> None:
    """Run the installed program where the source tree cannot be imported, up to the demo's report."""
    home = run(twins.with_name("python"), "-c", "import twins; print(twins.__file__)", folder=folder)
    expect(Path(home.strip()).is_relative_to(twins.parents[1]), f"`import twins` finds {home.strip()}")
    expect(run(twins, "--version", folder=folder) == f"twins {version}\n", "`twins --version` prints another version")
    versions = json.loads(run(twins, "doctor", "--json", folder=folder))["versions"]
    expect(versions["twins-vision"] == version, "`twins doctor` prints another version")
    expect("twins_svt_small" in run(twins, "models", folder=folder), "`twins models` lists no networks")
    run(twins, "demo", "--device", "cpu", "--out", folder / "run", folder=folder)
    expect((folder / "run" / "report.html").is_file(), "`twins demo` wrote no report")


def run(*command: str | Path, folder: Path = ROOT) -> str:
    """Print and run a command, without the settings that would let it import the source tree; return its output."""
    print("$", *command, flush=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    expect(done.returncode == 0, f"{Path(command[0]).name} ended with exit code {done.returncode}:\n{done.stdout}")
    return done.stdout


def expect(condition: bool, complaint: str) -> None:
    if not condition:
        sys.exit(f"the build is not good: {complaint}")


if __name__ == "__main__":
    main()
