"""The run folder: everything that explains a run, read and written here and nowhere else.

    config.json     the full configuration          metrics.jsonl  one row per logged step, `step` first
    command.txt     a line that recreates the run   samples/       pictures by step
    data.json       splits and skipped, by name     checkpoints/   written by jaxvae.train.checkpoint
    versions.json   packages                        report.md      numbers, curves and pictures, at the end
    host.json       machine and devices             report.json    its numbers; curves.png: every metric
    lock            the last process that trained   (held while it does: jaxvae.train.lock)

plus TensorBoard events. Rows hold plain numbers under names such as `train/loss` and `val/iou`; a value that is
not finite is written as null (JSON has no NaN).
"""

import contextlib
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxvae.config import difference, from_plain, to_plain
from jaxvae.errors import UserError

# Keys that may change between two starts of one run: they alter how long, how often and on what a run works, not
# which numbers a step computes. (One exception is wanted: a cosine schedule ends with the run, so a longer run also
# gets another learning rate from here on. The change is reported.)
MAY_CHANGE = (
    "preset",
    "train.total_steps",
    "train.epochs",
    "train.log_every",
    "train.eval_every",
    "train.sample_every",
    "train.save_every",
    "train.keep",  # and keep_best, keep_every
    "train.best_",  # metric and mode
    "train.max_skips",
    "train.replica_check_every",
    "monitors.",
    "parallel.",
    "data.workers",
    "optim.accum",
)

# What a start that was killed at once leaves behind, before there is a config.json.
LOCK = "lock"
BEFORE_CONFIG = {LOCK, "config.json.tmp"}

PACKAGES = ("jaxvae", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml_collections")


class Run:
    """A run folder. Constructing it touches nothing; `check` looks, `create` writes."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.config_path = self.folder / "config.json"
        self.metrics_path = self.folder / "metrics.jsonl"

    def config(self) -> ConfigDict:
        """The configuration of the run's last start, locked.

        Raises:
          UserError: if the folder holds no run, or its config.json is not one of this version.
        """
        if not self.config_path.is_file():
            raise UserError(f"{self.folder} is no run folder: it has no config.json")
        plain = read_json(self.config_path)
        try:
            return from_plain(plain if isinstance(plain, dict) else {})
        except UserError as error:
            raise UserError(f"{self.config_path}: {error}") from None

    def check(self, config) -> dict[str, tuple[Any, Any]]:
        """Whether a training with `config` may start, or continue, here.

        Returns:
          The keys that changed since the last start: {key: (old, new)}, empty for a new run.

        Raises:
          UserError: if the folder holds a run with another configuration (beyond `MAY_CHANGE`) or with a damaged
            log, or holds something that is not a run.
        """
        if self.config_path.exists():
            found = read_json(self.config_path)
            if not isinstance(found, dict):
                raise UserError(f"{self.config_path} holds no configuration: choose another --workdir")
            changed = self.check_config(found, config, f"{self.folder} holds a run")
            read_rows(self.metrics_path)  # what cannot be read is refused before anything is written
            samples = self.folder / "samples"
            if samples.exists() and not samples.is_dir():
                raise UserError(f"{samples} is not a folder: move it away, or choose another --workdir")
            return changed
        if self.folder.exists() and not (self.folder.is_dir() and self._names() <= BEFORE_CONFIG):
            raise UserError(f"--workdir {self.folder} exists and holds no run: choose another folder")
        return {}

    def check_config(self, found: Mapping[str, Any], config, what: str) -> dict[str, tuple[Any, Any]]:
        """The keys that differ from another start's configuration `found`: {key: (old, new)}.

        Raises:
          UserError: if one of them may not (`MAY_CHANGE`); it begins with `what`.
        """
        changed = difference(found, to_plain(config))
        refused = {k: v for k, v in changed.items() if not k.startswith(MAY_CHANGE)}
        if refused:
            listing = ", ".join(f"{k}: {old!r} there, {new!r} here" for k, (old, new) in refused.items())
            raise UserError(
                f"{what} with another config ({listing}): choose another --workdir, or give that run's values to "
                "continue it"
            )
        return changed

    def check_without_checkpoint(self, save_every: int) -> None:
        """Refuses to start anew over a log that had a checkpoint once; `save_every` is that of the log.

        Raises:
          UserError: if the run has ended (it has a report), or metrics.jsonl goes beyond the second save, which
            waits for the first to be on disk.
        """
        last = max((row["step"] for row in read_rows(self.metrics_path)), default=0)
        if (self.folder / "report.md").exists() or (save_every and last > 2 * save_every):
            raise UserError(
                f"{self.folder} has a log up to step {last} but no checkpoint to continue from: bring back its "
                "checkpoints, or choose another --workdir"
            )

    def create(self, config, command: str, sources: Mapping[str, Any], notes: list[str]) -> None:
        """Writes what is known before the first step.

        Raises:
          UserError: if the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # First: a folder with config.json is a run, so one that is killed here can be started again.
            write_json(self.config_path, to_plain(config))
            (self.folder / "samples").mkdir(exist_ok=True)
            write_text(self.folder / "command.txt", command + "\n")
            write_json(self.folder / "host.json", host())
            write_json(self.folder / "versions.json", versions())
            splits = {
                split: {"fingerprint": source.fingerprint, "examples": [source.name(i) for i in range(len(source))]}
                for split, source in sources.items()
            }
            data = {"notes": notes, "skipped": skipped_inputs(sources), "splits": splits}
            write_json(self.folder / "data.json", data)
        except OSError as error:
            raise UserError(f"--workdir {self.folder} cannot be written: {error}") from None

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Appends one row to metrics.jsonl."""
        row = {name: (float(v) if math.isfinite(v) else None) for name, v in row.items()}
        line = json.dumps({"step": step, **row}).encode() + b"\n"
        with open(self.metrics_path, "ab", buffering=0) as file:
            before = file.tell()
            try:
                written = file.write(line)
                if written < len(line):  # the disk is full: writing the rest says so
                    file.write(line[written:])
            except OSError:
                file.truncate(before)  # half a line would spoil the next one
                raise

    def picture(self, name: str, step: int) -> Path:
        """Where the picture `name` of a step belongs."""
        return self.folder / "samples" / f"{name}-{step:07d}.png"

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint of a step."""
        return self.folder / "checkpoints" / str(step)

    def fingerprint(self, split: str) -> str:
        """The digest of the examples of a split at the run's last start.

        Raises:
          UserError: if data.json does not have it.
        """
        path = self.folder / "data.json"
        try:
            return read_json(path)["splits"][split]["fingerprint"]
        except (KeyError, TypeError):
            raise UserError(f"{path} has no fingerprint of the split {split!r}") from None

    def rewind(self, step: int, pictures: Container[str]) -> None:
        """Drops rows and `pictures` after `step`: a run that resumes from a checkpoint writes them again, once."""
        rows = [row for row in read_rows(self.metrics_path) if row["step"] <= step]
        write_text(self.metrics_path, "".join(json.dumps(row) + "\n" for row in rows))
        for path in (self.folder / "samples").iterdir():
            name, _, digits = path.stem.rpartition("-")
            if name in pictures and digits.isdecimal() and int(digits) > step:
                ours = self.picture(name, int(digits))
                # Whatever has another name was put there by the user and stays.
                if path in (ours, ours.with_suffix(".tmp")) and path.is_file():
                    path.unlink()

    def _names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


def skipped_inputs(sources: Mapping[str, Any]) -> dict[str, list[str]]:
    """{reason: names} of what was left out of `sources`; those that share one mapping count it once."""
    readings = {id(source.skipped): source.skipped for source in sources.values()}.values()
    reasons = dict.fromkeys(reason for reading in readings for reason in reading)
    return {reason: [name for reading in readings for name in reading.get(reason, ())] for reason in reasons}


def host() -> dict[str, Any]:
    """The machine and its devices."""
    import jax  # here and not above: reading a run folder needs no device

    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "backend": jax.default_backend(),
        "devices": [device.device_kind for device in jax.devices()],
        "processes": jax.process_count(),
    }


def versions() -> dict[str, str]:
    """Installed versions of the packages on which numbers depend."""
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line torn by a kill is left out.

    Raises:
      UserError: if another line is no row, or the file cannot be read.
    """
    path = Path(path)
    if not path.exists():
        return []
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): bring back the log, or choose another --workdir") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                raise ValueError("no row with a step")
        except ValueError as error:
            if number == len(lines):
                break
            what = "repair the line, or choose another --workdir"
            raise UserError(f"{path}, line {number} is not a row of the log ({error}): {what}") from None
        rows.append(row)
    return rows


def read_json(path: str | Path) -> Any:
    """Reads a JSON file of a run folder; a torn or foreign one is a `UserError` that names it."""
    try:
        return json.loads(Path(path).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        what = "bring it back, or choose another run folder"
        raise UserError(f"{path} is not readable as JSON ({error}): {what}") from None


def write_json(path: str | Path, value: Any) -> None:
    """Writes plain values as JSON with two blanks of indentation; as `write_text`."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Writes a file whole or not at all: beside it first, then renamed."""
    path = Path(path)
    beside = path.with_name(path.name + ".tmp")
    try:
        beside.write_text(text)
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
