"""The command line that all scripts share: `--config=FILE[:PRESET] [--config.x.y=value ...]`.

Every mistake ends in one line on stderr and exit status 2; a bug keeps its traceback.
"""

import difflib
import importlib.util
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from jaxvae.config import Preset, flatten
from jaxvae.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "configs/<system>.py[:PRESET]")


GOES_ON = "stopped: the same command goes on from the newest checkpoint"


def run(main: Callable[..., None], arguments: Sequence[str] = (), interrupted: str = GOES_ON) -> None:
    """Parses the flags, calls `main` and turns a user's mistakes into one line and status 2.

    Compiled programs are kept in the user's cache folder, unless JAX_COMPILATION_CACHE_DIR names another: the second
    start of a training is a matter of seconds.

    Args:
      arguments: names of what `main` takes in this order, given without a flag.
      interrupted: what is said after Ctrl-C.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxvae" / "compiled"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))  # read when jax is imported, which is later

    def guarded(argv):
        # jax and orbax tell absl's log of their every step; warnings and errors stay.
        logging.set_verbosity(logging.WARNING)
        try:
            main(*_positional(argv[1:], arguments))
        except UserError as error:
            fail(str(error))
        except KeyboardInterrupt:
            print(interrupted, file=sys.stderr)
            raise SystemExit(130) from None

    app.run(guarded, flags_parser=_parse)


def no_config(where: str) -> None:
    """For a script that takes its configuration from `where`.

    Raises:
      UserError: if --config was given.
    """
    if _CONFIG.value is not None:
        raise UserError(f"--config is not for this script: the configuration is {where}")


def config(default: Path | None = None) -> ConfigDict:
    """The configuration that the flags name, with its overrides; without --config that of `default` (file[:preset]).

    Raises:
      UserError: if --config was not given and there is no default.
    """
    if _CONFIG.value is not None:
        return _CONFIG.value
    if default is None:
        raise UserError("--config is missing: give --config=configs/<system>.py[:PRESET]")
    path, _, preset = str(default).partition(":")
    module = load_module(Path(path))
    return module.get_config(preset) if preset else module.get_config()


def config_path() -> Path:
    """The file behind --config, without its preset."""
    return Path(flags.FLAGS["config"].config_filename.split(":")[0])


def default_workdir(config: ConfigDict) -> Path:
    """runs/<config file>-<preset>, so that the same command finds its run again."""
    return Path("runs") / f"{config_path().stem}-{config.preset}"


def presets(path: Path) -> dict[str, Preset]:
    """The presets of a configuration file."""
    return load_module(path).PRESETS


def load_module(path: Path):
    """A configuration file as a module.

    Raises:
      UserError: if there is no such file, when the message names those beside it, or it is not a configuration.
    """
    if not path.is_file() or path.suffix != ".py":
        beside = sorted(str(p) for p in path.parent.glob("*.py")) or sorted(map(str, Path("configs").glob("*.py")))
        hint = f"there are {', '.join(beside)}" if beside else "give the path of a configuration file"
        raise UserError(f"--config={path} is not a configuration file: {hint}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a file may raise that was written for something else, or not finished
        raise UserError(f"--config={path} cannot be read: {type(error).__name__}: {error}") from error
    if not hasattr(module, "get_config"):
        raise UserError(f"--config={path} is not a configuration file: it has no function get_config")
    return module


def command_line() -> str:
    """The command of this process, quoted for a shell."""
    return shlex.join(["python", *sys.argv])


def fail(message: str) -> None:
    """Ends the process as a user's mistake."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def _positional(given: list[str], names: Sequence[str]) -> list[str]:
    if len(given) > len(names):
        raise UserError(f"argument {given[len(names)]!r} is not understood: options begin with --")
    if len(given) < len(names):
        usage = shlex.join(["python", sys.argv[0], *names])
        raise UserError(f"{names[len(given)]} is missing: {usage} [options]")
    return given


def _parse(argv: list[str]) -> list[str]:
    try:
        _check_config(argv)
        flags.FLAGS.set_gnu_getopt()  # options may follow what is given without a flag
        return flags.FLAGS(argv)
    except UserError as error:
        fail(str(error))
    except flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname, list(flags.FLAGS), n=1)
        hint = f": did you mean --{near[0]}?" if near else ""
        if error.flagname.startswith(("config.", "noconfig.")):
            hint = ": give --config=FILE[:PRESET] before it"
        fail(f"option --{error.flagname} is unknown{hint}")
    except flags.IllegalFlagValueError as error:
        fail(_describe_value(error))
    except flags.Error as error:
        fail([line.strip() for line in str(error).splitlines() if line.strip()][-1])


def _describe_value(error: flags.IllegalFlagValueError) -> str:
    """'config.data.batch_size = 1.5: ...' from absl's words, which speak of Python's conversions."""
    match = re.match(r"flag --([\w.]+)=(.*?): ", str(error), re.DOTALL)
    if not match:
        return str(error)
    name, value = match.groups()
    kind = flags.FLAGS[name].flag_type()
    expected = {"bool": "true or false", "int": "a whole number", "float": "a number"}
    return f"{name if name.startswith('config.') else '--' + name} = {value}: must be {expected.get(kind, kind)}"


def _check_config(argv: list[str]) -> None:
    """Finds a wrong file, preset or key before absl does, whose messages are tracebacks of 30 lines."""
    name = None
    # absl takes one dash for two.
    argv = ["-" + word if word.startswith("-config") else word for word in argv]
    for i, word in enumerate(argv):
        if word == "--config":
            name = argv[i + 1] if i + 1 < len(argv) else ""
        elif word.startswith("--config="):
            name = word.split("=", 1)[1]
    if name is None:
        return
    path, _, preset = name.partition(":")
    module = load_module(Path(path))
    config = module.get_config(preset) if preset else module.get_config()
    keys = flatten(config)
    for word in argv:
        # --noconfig.x.y is absl's word for --config.x.y=false.
        _, found, key = word.partition("--noconfig." if word.startswith("--no") else "--config.")
        if not found:
            continue
        key = key.split("=", 1)[0]
        if key in ("preset", "task"):
            raise UserError(f"--config.{key} cannot be overridden: a preset is chosen by --config={path}:PRESET")
        inside = [known for known in keys if known.startswith(key + ".")]
        if inside:
            raise UserError(
                f"--config.{key} is a group of keys: give them one by one, such as --config.{inside[0]}=..."
            )
        if key in keys:
            continue
        near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
        last = key.rsplit(".", 1)[-1]
        near = [known for known in keys if known.rsplit(".", 1)[-1] == last] or near
        hint = f"did you mean --config.{near[0]}?" if near else f"keys are {', '.join(keys)}"
        raise UserError(f"--config.{key} is not a key of {path}: {hint}")
