"""Options and fixtures of the whole suite."""

import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

# Before anything imports jax. Whoever wants to run the tests elsewhere sets the variables.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Many tests compile the same small programs: the second takes them from here.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


# No deadlines: the first example of a test may compile, and other work may hold the cores.
hypothesis.settings.register_profile("jaxvae", deadline=None)
hypothesis.settings.load_profile("jaxvae")


def pytest_addoption(parser):
    group = parser.getgroup("jaxvae")
    group.addoption("--golden", metavar="DIR", help="golden values of the originals: DIR/<system>/manifest.json")
    group.addoption("--slow", action="store_true", help="run the tests marked slow as well")


def pytest_configure(config):
    # Small tests compile much and compute little: without LLVM's optimisations they take half the time. The full
    # suite runs what a training runs. XLA reads the variable when the first device is used.
    if not config.getoption("slow"):
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    golden = config.getoption("golden")
    if golden is not None:
        folder = (config.invocation_params.dir / golden).resolve()
        if not folder.is_dir():
            raise pytest.UsageError(f"--golden={golden}: there is no folder {folder}")
        config.option.golden = str(folder)  # workers of xdist get the options as text


def pytest_collection_modifyitems(config, items):
    if config.getoption("slow"):
        return
    skip = pytest.mark.skip(reason="slow: runs with --slow (bash scripts/test.sh --all)")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="module")
def toys():
    """The toys are among the tasks for the tests of a module; see `toy`."""
    from toy import among_tasks

    with among_tasks():
        yield


@pytest.fixture(scope="session")
def glyph_run(tmp_path_factory):
    """A tiny glyph VAE after two updates on six capitals, with a checkpoint of each; only to be read."""
    from tiny import tiny_config

    from jaxvae.train.loop import train

    folder = tmp_path_factory.mktemp("glyph_run") / "run"
    few = {"total_steps": 2, "log_every": 1, "save_every": 1, "eval_every": 0, "sample_every": 0}
    changes = {f"train__{key}": value for key, value in few.items()}
    train(tiny_config("glyph_vae", data__num_buckets=1, **changes), folder, "command")
    return folder


@pytest.fixture(scope="session")
def run_python():
    """Runs Python code, or a script given as a Path, in a fresh process on the CPU; see `_run_python`."""
    return _run_python


def _run_python(
    code_or_script: str | Path,
    *arguments: str,
    devices: int = 1,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 600,
) -> subprocess.CompletedProcess[str]:
    """Returns the completed process with its stdout and stderr as text, whatever its exit status.

    Args:
      arguments: for sys.argv[1:]; options of the interpreter such as -W are not among them.
      devices: how many CPU devices jax sees.
      env: variables on top of this process's.
      cwd: the root of the repository when not given.
      timeout: in seconds; TimeoutExpired after that.
    """
    variables = dict(os.environ, JAX_PLATFORMS="cpu")
    flags = [variables.get("XLA_FLAGS", ""), f"--xla_force_host_platform_device_count={devices}"]
    variables["XLA_FLAGS"] = " ".join(flags).strip()
    if devices > 1:
        # A collective holds one thread per device until all have arrived. With steps in flight one behind the
        # other, fewer than two threads per device let XLA wait for ever (seen with 4 devices and 6 threads).
        variables["PJRT_NPROC"] = str(4 * devices)
    variables |= env or {}
    program = [str(code_or_script)] if isinstance(code_or_script, Path) else ["-c", code_or_script]
    return subprocess.run(
        [sys.executable, *program, *arguments],
        env=variables,
        cwd=cwd or Path(__file__).parents[1],
        timeout=timeout,
        capture_output=True,
        text=True,
    )
