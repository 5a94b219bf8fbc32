"""The shell scripts: which Python they take, and that a half-made environment is never trusted."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run"]

# Stands in for a Python of any version. What it is asked to install goes to a log, `-m venv` makes a folder
# with a copy of it, and all real code runs in the Python of this test.
FAKE_PYTHON = """#!/bin/sh
case "$*" in
    *sys.version_info*) echo "{version}" ;;
    *ensurepip*) ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip "*) echo "$*" >> "{log}"; if [ -e "{log}.fail" ]; then echo "no network today"; exit 1; fi ;;
    *) exec "{real}" "$@" ;;
esac
"""


class Sandbox:
    """A copy of the scripts in a folder with a space, and a PATH that holds no Python but fake ones."""

    def __init__(self, folder: Path):
        self.root = folder / "my checkout"
        self.log = folder / "pip.log"
        self.bin = folder / "bin"
        self.bin.mkdir()
        for tool in ("bash", "cat", "cp", "dirname", "mkdir", "rm", "touch", "flock"):
            if place := shutil.which(tool):  # flock is not on every system
                (self.bin / tool).symlink_to(place)
        shutil.copytree(ROOT / "scripts", self.root / "scripts", ignore=shutil.ignore_patterns("*.py"))
        for name in ("setup.cfg", "pyproject.toml"):
            shutil.copy(ROOT / name, self.root)

    def add_python(self, name: str, version: str) -> None:
        text = FAKE_PYTHON.format(version=version, log=self.log, real=sys.executable)
        self.add_command(name, text)

    def add_command(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def run(self, code: str) -> subprocess.CompletedProcess[str]:
        """Runs shell code after environment.sh was read, from another folder."""
        return subprocess.run(
            ["bash", "-c", f'set -euo pipefail; source "{self.root}/scripts/environment.sh"; {code}'],
            env={"PATH": str(self.bin)},
            cwd=self.root.parent,
            capture_output=True,
            text=True,
        )

    def installations(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


@pytest.fixture
def sandbox(tmp_path):
    return Sandbox(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_are_bash(script):
    process = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, "")


def test_an_old_python_is_refused_in_one_line(sandbox):
    sandbox.add_python("python3", "3.8.10")
    process = sandbox.run("ensure_environment test; echo went on")
    assert process.returncode == 2
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert "needs Python 3.11, 3.12 or 3.13" in line
    assert "python3 is 3.8.10" in line
    assert not (sandbox.root / ".venv").exists()


def test_no_python_is_refused_in_one_line(sandbox):
    process = sandbox.run("ensure_environment")
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert "found: no Python 3 that runs" in line


def test_a_shim_that_does_not_run_is_passed_over(sandbox):
    sandbox.add_command("python3.13", "#!/bin/sh\necho 'no such version selected'\nexit 127\n")
    sandbox.add_python("python3.12", "3.12.1")
    sandbox.add_python("python3", "3.10.13")
    assert sandbox.run("find_python").stdout == "python3.12\n"


def test_an_environment_with_an_old_python_is_refused_and_kept(sandbox):
    sandbox.add_python("python3", "3.12.1")
    sandbox.add_python("old", "3.9.18")
    python = sandbox.root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    shutil.copy(sandbox.bin / "old", python)
    process = sandbox.run("ensure_environment")
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert ".venv holds a Python 3.9.18" in line
    assert python.exists()
    assert sandbox.installations() == 0


def test_installs_once_and_again_when_something_changed(sandbox):
    sandbox.add_python("python3", "3.12.1")
    assert sandbox.run("ensure_environment test").returncode == 0
    assert f"-e {sandbox.root}[test]" in sandbox.log.read_text()
    assert sandbox.installations() == 1

    sandbox.run("ensure_environment test")
    sandbox.run("ensure_environment")  # the core came with the tests
    assert sandbox.installations() == 1

    with open(sandbox.root / "setup.cfg", "a") as setup:
        setup.write("# changed\n")
    sandbox.run("ensure_environment")
    assert sandbox.installations() == 2
    sandbox.run("ensure_environment test")  # what the tests need has changed too
    assert sandbox.installations() == 3

    moved = sandbox.root.with_name("moved")
    sandbox.root.rename(moved)
    sandbox.root = moved
    sandbox.run("ensure_environment test")  # an editable installation points at the old place
    assert sandbox.installations() == 4


def test_a_first_installation_that_failed_starts_anew(sandbox):
    sandbox.add_python("python3", "3.12.1")
    failing = Path(f"{sandbox.log}.fail")
    failing.touch()
    process = sandbox.run("ensure_environment; echo went on")
    assert process.returncode == 2
    assert process.stdout == ""
    assert "no network today" in process.stderr
    assert process.stderr.splitlines()[-1].startswith("error: pip could not install jaxvae")

    remains = sandbox.root / ".venv" / "remains"
    remains.touch()
    failing.unlink()
    assert sandbox.run("ensure_environment").returncode == 0
    assert not remains.exists()


def test_a_later_installation_that_failed_is_repeated_in_place(sandbox):
    sandbox.add_python("python3", "3.12.1")
    sandbox.run("ensure_environment")
    own = sandbox.root / ".venv" / "installed by the user"
    own.touch()
    failing = Path(f"{sandbox.log}.fail")
    failing.touch()
    assert sandbox.run("ensure_environment test").returncode == 2
    failing.unlink()
    assert sandbox.run("ensure_environment").returncode == 0  # the core is not trusted either
    assert sandbox.installations() == 3
    assert own.exists()
