"""Checkpoints: orbax behind one file.

A checkpoint holds the state and, beside it, the host's memory (`extra`, JSON), both of the same moment.
"""

import contextlib
import logging
import sys
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers
from orbax.checkpoint.options import AtomicityMode, AtomicityOptions

from jaxvae.errors import UserError
from jaxvae.train.state import State


class Checkpoints:
    """The checkpoints in a folder: saves in the background, keeps the newest `keep`, restores the newest.

    Constructing and restoring touch nothing; the first `save` makes the folder. What a killed process left half-written
    counts as nothing, and is replaced when its step is saved again.
    """

    def __init__(self, folder: str | Path, keep: int):
        self.folder = Path(folder).resolve()
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder} is not a folder: move it away, or choose another --workdir")
        self.manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                create=False,
                preservation_policy=checkpoint_managers.LatestN(keep),
                # Without the marker file an empty folder would count as the newest checkpoint.
                atomicity_options=AtomicityOptions(mode=AtomicityMode.COMMIT_FILE),
            ),
            item_handlers={"state": ocp.StandardCheckpointHandler(), "extra": ocp.JsonCheckpointHandler()},
        )

    def latest_step(self) -> int | None:
        return self.manager.latest_step()

    def save(self, step: int, state: State, extra: dict[str, Any]) -> None:
        """Starts a save and returns; the arrays may be donated at once."""
        args = ocp.args.Composite(state=ocp.args.StandardSave(_plain(state)), extra=ocp.args.JsonSave(extra))
        self.manager.save(step, args=args)

    def restore(self, like: State) -> tuple[State, dict[str, Any]]:
        """The newest checkpoint, placed like `like` (a state of shapes with shardings).

        Raises:
          UserError: if it cannot be read, or its arrays have other names, shapes or types than `like`.
        """
        step, target = self.manager.latest_step(), _plain(like)
        path = self.folder / str(step)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target), extra=ocp.args.JsonRestore())
        try:
            with _one_exception():
                _check_same(path, self.manager.item_metadata(step)["state"].tree, target)
                restored = self.manager.restore(step, args=args)
        except UserError:
            raise
        except Exception as error:  # orbax raises whatever the layer that stumbled raises
            why = (str(error).splitlines() or [""])[0][:200]
            older = [s for s in self.manager.all_steps() if s < step]
            way_out = f"remove that folder to continue from step {max(older)}, or " if older else ""
            raise UserError(
                f"checkpoint {path} is damaged ({type(error).__name__}: {why}): {way_out}choose another --workdir"
            ) from error
        state = State(**restored["state"])
        return state.replace(key=jax.random.wrap_key_data(state.key)), restored["extra"]

    def wait(self) -> None:
        """Until the save in progress is on disk; raises what went wrong in it."""
        self.manager.wait_until_finished()

    def close(self) -> None:
        self.manager.close()


def _plain(state: State) -> dict[str, Any]:
    """The state as a dictionary; the key as its numbers, which metadata describes like any array."""
    plain = {name: getattr(state, name) for name in State.__dataclass_fields__}
    key = state.key
    if isinstance(key, jax.ShapeDtypeStruct):
        data = jax.eval_shape(jax.random.key_data, key)
        plain["key"] = jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=key.sharding)
    else:
        plain["key"] = jax.random.key_data(key)
    return plain


@contextlib.contextmanager
def _one_exception():
    """Keeps orbax from printing tracebacks beside the exception that it raises.

    When one of its reads fails, it closes the event loop to which all others report. They end some time later, so the
    silence begins before the first and lasts after a failure.
    """
    hook, log = sys.unraisablehook, logging.getLogger("asyncio")

    def quiet(unraisable):
        if "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    def retrieved(record):
        return "exception was never retrieved" not in record.getMessage()

    sys.unraisablehook = quiet
    log.addFilter(retrieved)
    yield
    sys.unraisablehook = hook
    log.removeFilter(retrieved)


def _check_same(path: Path, found: Any, wanted: Any) -> None:
    """Compares shapes and types by path: orbax casts types silently and reports shapes at great length."""

    def describe(tree):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {
            jax.tree_util.keystr(path, simple=True, separator="/"): (tuple(leaf.shape), str(leaf.dtype))
            for path, leaf in leaves
        }

    a, b = describe(found), describe(wanted)
    for name in sorted(a.keys() | b.keys()):
        if a.get(name) != b.get(name):
            raise UserError(
                f"checkpoint {path} is of another architecture: {name} is {_text(a.get(name))} there and "
                f"{_text(b.get(name))} here; give the run's own config or another --workdir"
            )


def _text(leaf) -> str:
    return "missing" if leaf is None else f"{leaf[1]}{list(leaf[0])}"
