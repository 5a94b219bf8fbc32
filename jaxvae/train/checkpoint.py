"""Checkpoints: orbax behind one file.

A checkpoint holds the state and, beside it as JSON, what the host remembered at the same moment and the digests of
both, because orbax itself hands out flipped bytes without complaint.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies
from orbax.checkpoint.options import AtomicityMode, AtomicityOptions

from jaxvae.errors import UserError
from jaxvae.train.digest import digests
from jaxvae.train.distributed import anywhere, is_first, together
from jaxvae.train.orbax_noise import silence
from jaxvae.train.patterns import by_name
from jaxvae.train.retention import BestValues
from jaxvae.train.state import State


class Restored(NamedTuple):
    """A state with the host's memory of the same moment, and a line for every damaged checkpoint passed over."""

    state: State
    memory: dict[str, Any]
    notes: list[str]


class Damaged(Exception):
    """A checkpoint that cannot be read, or not as it was written."""


class Checkpoints:
    """The checkpoints in a folder: saves in the background, restores the newest that is sound.

    Constructing and restoring touch nothing; the first `save` makes the folder. What a killed process left half-written
    counts as nothing, and is replaced when its step is saved again.

    Args:
      keep: newest checkpoints kept.
      keep_best: kept beside them, those with the best `best_metric`.
      best_mode: 'min' or 'max', what best means.
      keep_every: checkpoints at multiples of it are kept for good; 0 = none.
    """

    def __init__(
        self,
        folder: str | Path,
        keep: int = 1,
        keep_best: int = 0,
        best_metric: str = "",
        best_mode: str = "min",
        keep_every: int = 0,
    ):
        silence()
        self.folder = Path(folder).resolve()
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder} is not a folder: move it away, or choose another --workdir")
        kept: list[policies.PreservationPolicy] = [policies.LatestN(keep)]
        self.best_metric = best_metric
        # {step: value of that metric}; of earlier checkpoints it is read when something is saved, and not before.
        self.values: dict[int, float] = {}
        self.values_known = not keep_best
        if keep_best:
            kept.append(BestValues(keep_best, best_mode, self.values))
        if keep_every:
            kept.append(policies.EveryNSteps(keep_every))
        handlers = {"state": ocp.PyTreeCheckpointHandler(), "extra": ocp.JsonCheckpointHandler()}
        # Reads without the manager, which lets all processes wait for one that has failed to read.
        self.reader = ocp.CompositeCheckpointHandler(**handlers)
        self.manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                create=False,
                # One policy of several: with max_to_keep and best_fn alone, orbax drops the newest.
                preservation_policy=policies.AnyPreservationPolicy(kept),
                # Without the marker file an empty folder would count as the newest checkpoint.
                atomicity_options=AtomicityOptions(mode=AtomicityMode.COMMIT_FILE),
            ),
            item_handlers=handlers,
        )

    def steps(self) -> list[int]:
        """Steps of finished checkpoints, ascending."""
        return sorted(self.manager.all_steps())

    def save(
        self, step: int, state: State, memory: dict[str, Any], evaluated: Mapping[str, float] | None = None
    ) -> None:
        """Starts a save and returns; the arrays may be donated at once.

        Args:
          evaluated: metrics of this state, of which `keep_best` compares one. A checkpoint that does not have it, or
            has no finite one, is never among the best.

        Raises:
          UserError: if this save, or the one before it, cannot be written.
        """
        plain = _plain(state)
        self._know_values()
        finite = {name: float(value) for name, value in (evaluated or {}).items() if math.isfinite(value)}
        if self.best_metric in finite:
            self.values[step] = finite[self.best_metric]
        extra = {"memory": memory, "digests": digests(plain), "evaluated": finite}
        args = ocp.args.Composite(
            state=ocp.args.PyTreeSave(plain), extra=ocp.args.JsonSave(extra | {"sha256": _sha256(extra)})
        )
        with self._writing(step):
            accepted = self.manager.save(step, args=args)
        # The manager declines without a word; right only where the same checkpoint is there.
        if not accepted and step not in self.steps():
            raise RuntimeError(f"orbax has declined to save step {step} beside {self.steps()}")

    def _know_values(self) -> None:
        """Reads what `keep_best` compares from the checkpoints that were there before."""
        if self.values_known:
            return
        self.values_known = True
        for step in self.steps():
            # One that cannot be read is worth nothing.
            with contextlib.suppress(Damaged):
                evaluated = self._extra(step)["evaluated"]
                if self.best_metric in evaluated:
                    self.values[step] = evaluated[self.best_metric]

    def restore(self, like: State) -> Restored:
        """The newest sound checkpoint, placed like `like` (a state of shapes with shardings).

        Damaged ones are passed over; `set_aside` then makes room for their steps.

        Raises:
          UserError: if none can be read, or its arrays have other names, shapes or types than `like`.
        """
        damage: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                state, memory = self.restore_at(step, like)
            except Damaged as error:
                damage[step] = str(error)
                continue
            notes = [
                f"checkpoint {self.folder / str(s)} is damaged ({why}) and set aside as {s}.damaged: continues from "
                f"step {step}"
                for s, why in damage.items()
            ]
            return Restored(state, memory, notes)
        newest, why = next(iter(damage.items()))
        raise UserError(
            f"checkpoint {self.folder / str(newest)} is damaged ({why}) and there is no sound one before it: choose "
            "another --workdir"
        )

    def restore_at(self, step: int, like: State, whole: bool = True) -> tuple[State, dict[str, Any]]:
        """The state at `step`, placed like `like`, and the memory of the host.

        Args:
          whole: False reads the arrays that `like` has and leaves others alone; fields without any may be empty.

        Raises:
          Damaged: if they cannot be read, or not as they were written.
          UserError: if arrays have other names, shapes or types than those of `like`.
        """
        target = _plain(like)
        found, wanted = self.arrays(step), by_name(target)
        if not whole:
            target = {field: tree for field, tree in target.items() if jax.tree.leaves(tree)}
            found = {name: array for name, array in found.items() if name in wanted}
        _check_same(self.folder / str(step), found, wanted)
        extra = self._extra(step)
        state = State(**self._read_arrays(step, target, extra["digests"]))
        if int(state.step) != step:
            raise Damaged(f"it holds step {int(state.step)}")
        return state.replace(key=jax.random.wrap_key_data(state.key)), extra["memory"]

    def set_aside(self, step: int) -> None:
        """Makes room for steps after `step`, which will be saved again.

        Checkpoints that `restore` found damaged are renamed; what a killed process left half-written is removed.
        """
        with together():
            if is_first():
                self._remove_unfinished()
            for later in self.steps() if is_first() else ():
                if later > step:
                    target = self.folder / f"{later}.damaged"
                    shutil.rmtree(target, ignore_errors=True)
                    (self.folder / str(later)).rename(target)
        self.manager.reload()

    def _remove_unfinished(self) -> None:
        for leftover in self.folder.glob("*"):
            if leftover.name.isdecimal() and not (leftover / "commit_success.txt").exists():
                shutil.rmtree(leftover, ignore_errors=True)

    def arrays(self, step: int) -> dict[str, Any]:
        """{name: an object with its shape and dtype} of every array of the state in a checkpoint.

        Raises:
          Damaged: if that cannot be read.
        """
        with _reading():
            return by_name(self.manager.item_metadata(step)["state"].tree)

    def read_memory(self, step: int) -> dict[str, Any]:
        """What the host had saved with the checkpoint at `step`.

        Raises:
          Damaged: if it cannot be read.
        """
        return self._extra(step)["memory"]

    def digests(self, step: int) -> dict[str, int]:
        """{name: digest} of every array that was saved in the checkpoint at `step`.

        Raises:
          Damaged: if they cannot be read.
        """
        return self._extra(step)["digests"]

    def read(self, step: int, target: dict[str, Any]) -> dict[str, Any]:
        """Some arrays of the checkpoint at `step`: those of `target`, a part of `_plain` of its state.

        Raises:
          Damaged: if they cannot be read, or not as they were written.
        """
        return self._read_arrays(step, target, self.digests(step))

    def _read_arrays(self, step: int, target: dict[str, Any], written: dict[str, int]) -> dict[str, Any]:
        args = jax.tree.map(
            lambda s: ocp.ArrayRestoreArgs(sharding=s.sharding, global_shape=s.shape, dtype=s.dtype), target
        )
        restore = ocp.args.PyTreeRestore(item=target, restore_args=args, partial_restore=True)
        with _reading():
            state = self._read(step, state=restore)
        for name, digest in digests(state).items():
            if written.get(name) != digest:
                raise Damaged(f"{name} is not what was saved")
        return state

    def close(self) -> None:
        """Waits until the save in progress is on disk.

        Raises:
          UserError: if it cannot be written.
        """
        with self._writing():
            self.manager.close()

    def _extra(self, step: int) -> dict[str, Any]:
        with _reading():
            extra = self._read(step, extra=ocp.args.JsonRestore())
            if not extra or extra.pop("sha256", None) != _sha256(extra):
                raise ValueError("the memory of the host is not what was saved")
        return extra

    def _read(self, step: int, **item: ocp.args.CheckpointArgs) -> Any:
        (name,) = item
        return self.reader.restore(self.manager.directory / str(step), ocp.args.Composite(**item))[name]

    @contextlib.contextmanager
    def _writing(self, step: int | None = None):
        """Turns what the system refused while orbax wrote into one line, and removes what was left half-written."""
        try:
            yield
        except Exception as error:  # orbax raises whatever the layer that stumbled raises
            self._remove_unfinished()
            if not _from_system(error):
                raise
            which = "a checkpoint" if step is None else f"the checkpoint of step {step}, or the one before it,"
            intact = self.steps()
            kept = f"step {intact[-1]} and those before it are intact" if intact else "there is none before it"
            raise UserError(
                f"{which} could not be written to {self.folder} ({_first_line(error)}): {kept}; make room and give "
                "the same command again"
            ) from error


def find_checkpoint(key: str, text: str) -> tuple[Checkpoints, int]:
    """The checkpoint that a user means by a run folder (its newest) or a folder checkpoints/<step> in it.

    Raises:
      UserError: if there is none.
    """
    path = Path(text).expanduser()
    folder, step = path / "checkpoints", None
    if path.name.isdecimal() and not folder.exists():  # a run folder may have such a name too
        folder, step = path.parent, int(path.name)
    if not folder.is_dir():
        raise UserError(f"{key} = {text!r} is no run with checkpoints, nor one of its checkpoints/<step>")
    checkpoints = Checkpoints(folder)
    steps = checkpoints.steps()
    if not steps or (step is not None and step not in steps):
        has = f"has those of steps {', '.join(map(str, steps))}" if steps else "has none"
        raise UserError(f"{key} = {text!r}: there is no such checkpoint; {folder} {has}")
    return checkpoints, steps[-1] if step is None else step


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


# How tensorstore, which writes the arrays, tells what the system refused.
_SYSTEM_CODE = re.compile(r"os_error_code='(\d+)'")


def _from_system(error: BaseException | None) -> bool:
    """Whether the operating system refused something, such as a write to a full disk, anywhere in the chain."""
    while error is not None:
        if isinstance(error, OSError) or _SYSTEM_CODE.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _first_line(error: Exception) -> str:
    """Type and text, shortened in the middle; what the system said (a full disk) comes first, wherever it stood."""
    text = (str(error).splitlines() or [""])[0]
    code = _SYSTEM_CODE.search(str(error))
    system = f"{os.strerror(int(code[1]))}: " if code else ""
    return f"{type(error).__name__}: {system}" + (text if len(text) < 250 else f"{text[:120]} ... {text[-120:]}")


@contextlib.contextmanager
def _reading():
    """Turns what orbax raises when it cannot read into `Damaged`, in all processes if it was in one."""
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    if anywhere(failure is not None):
        why = f"cannot be read: {_first_line(failure)}" if failure else "another process cannot read it"
        raise Damaged(why) from failure


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


def _check_same(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Compares shapes and types by name: orbax casts types silently and reports shapes at great length."""
    for name in sorted(found.keys() | wanted.keys()):
        there, here = describe(found.get(name)), describe(wanted.get(name))
        if there != here:
            raise UserError(
                f"checkpoint {path} is of another architecture: {name} is {there} there and {here} here; give the "
                "run's own config, or another run folder"
            )


def describe(leaf: Any) -> str:
    """'float32[3, 4]' of an array or its description; 'missing' of None."""
    return "missing" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"
