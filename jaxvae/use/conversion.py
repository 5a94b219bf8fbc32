"""Checkpoints of other frameworks as runs, and back."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxvae import tasks
from jaxvae.config import require_one_of, to_plain
from jaxvae.convert.containers import Container, read_container, write_safetensors
from jaxvae.convert.names import from_flax, to_flax
from jaxvae.convert.systems import System, system
from jaxvae.errors import UserError
from jaxvae.run import Run, read_json
from jaxvae.train.build import build
from jaxvae.train.checkpoint import Checkpoints
from jaxvae.train.init_from import put_weights
from jaxvae.train.patterns import by_name
from jaxvae.use.weights import read_weights


def import_checkpoint(
    name: str,
    source: str | Path,
    out: str | Path,
    config,
    hidden: dict[str, Any],
    command: str = "",
    report: Callable[[str], None] = print,
) -> Path:
    """Makes a run of a checkpoint of the original; returns its folder.

    The run can be evaluated, sampled, encoded, named by `init_from` and trained on. It has one checkpoint, at the
    original's step, with fresh moments of the optimizer and averages that are copies of the weights.

    Args:
      name: of the system.
      source: a `.pt`, `.npz` or `.safetensors`.
      out: the run folder to be made.
      config: all that is not the model: data (they must be there), loss, training. Its `model` is filled in here.
      hidden: the keys of `config.model` that no tensor shows, None where the user did not say. What is missing is
        looked for in the file, and in the original's `training_config.json`.
      command: for the run's command.txt.

    Raises:
      UserError: for a file, a configuration or a place that cannot work; nothing is then left in `out`.
    """
    kind, source, out = system(name), Path(source).expanduser(), Path(out).expanduser()
    require_one_of(config, "task", (name,))
    if out.exists():
        raise UserError(f"OUT = {str(out)!r} exists: name a folder that does not")
    container = read_container(source, kind.parts)
    try:
        sizes = kind.sizes({tensor: array.shape for tensor, array in container.tensors.items()})
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    found = _find_hidden(kind, source, container, hidden)
    config.model.update(sizes | {key: value for key, (value, _) in found.items()})
    origins = ", ".join(f"{key} {value} from {origin}" for key, (value, origin) in found.items())
    report(f"model from the tensors: {', '.join(f'{key} {value}' for key, value in sizes.items())}; {origins}")
    tasks.build(config)  # refuses what no model can have, before the tensors are compared with one
    model = config.model.to_dict()
    try:
        kind.check(container.tensors, model)
    except UserError as error:
        raise UserError(f"{source} does not fit the model: {error}") from None
    params = to_flax(kind.table(model), container.tensors)
    _write_run(out, config, params, int(container.facts.get("step", 0)), command, report)
    return out


def export_weights(
    name: str, path: str | Path, out: str | Path, weights: str = "", step: int | None = None
) -> dict[str, Any]:
    """Writes the weights of a run under the original's names as `.safetensors`; returns its facts.

    Args:
      path: a run folder, or one of its checkpoints/<step>.
      weights: 'raw' or the name of an average; '' = those of `train.eval_weights`.

    Raises:
      UserError: if the run is of another system, or something cannot be read or written.
    """
    kind, out = system(name), Path(out).expanduser()
    if out.suffix != ".safetensors":
        raise UserError(f"OUT = {str(out)!r}: the weights of a run become a .safetensors: name one")
    read = read_weights(path, weights, step)
    if read.config.task != name:
        raise UserError(f"{read.run.folder} is a run of {read.config.task}, not of {name}")
    model = read.config.model.to_dict()
    tensors = from_flax(kind.table(model), jax.device_get(read.params))
    facts = {key: str(model[key]) for key in kind.hidden} | {"step": str(read.step)}
    write_safetensors(out, tensors, {"system": name, "weights": read.weights} | facts)
    return {"tensors": len(tensors), "weights": read.weights, "step": read.step}


def _find_hidden(kind: System, source: Path, container: Container, given: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """{key: (value, where it comes from)} of what no tensor shows."""
    # The original writes ckpt/epoch<n>.pt, and its options beside the folder.
    stored = source.parent.parent / "training_config.json"
    options = read_json(stored) if source.suffix == ".pt" and stored.is_file() else {}
    found = {}
    for key in kind.hidden:
        places = ((given.get(key), f"--{key}"), (container.facts.get(key), source), (options.get(key), stored))
        value, origin = next(((value, origin) for value, origin in places if value is not None), (None, None))
        if value is None:
            raise UserError(f"{source} does not say config.model.{key}, and no tensor shows it: give --{key}=...")
        try:
            found[key] = int(value), str(origin)
        except (TypeError, ValueError):
            raise UserError(f"{origin}: {key} = {value!r} is no whole number: give --{key}=...") from None
    return found


def _write_run(out: Path, config, params, step: int, command: str, report: Callable[[str], None]) -> None:
    """A run folder with one checkpoint, whole or not at all."""
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        report(line)

    parts = build(config, note)
    state = put_weights(parts.create(), {name: jnp.asarray(x) for name, x in by_name(params).items()})
    state = state.replace(step=jnp.int32(step), updates=jnp.int32(step))
    memory = {"fingerprints": parts.fingerprints(), "config": to_plain(config)}
    beside = out.with_name(out.name + ".tmp")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        Run(beside).create(config, command, parts.sources, notes)
        checkpoints = Checkpoints(beside / "checkpoints")
        checkpoints.save(step, state, memory)
        checkpoints.close()
        os.replace(beside, out)
    except OSError as error:
        raise UserError(f"OUT = {str(out)!r} cannot be written: {error}: name another place") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
