"""The weights of a run without its data: what conversion and the encoding of other data need."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax.traverse_util import unflatten_dict

from jaxvae.errors import UserError, choose
from jaxvae.run import Run
from jaxvae.train.checkpoint import Damaged, find_checkpoint
from jaxvae.train.evaluate_run import locate
from jaxvae.train.init_from import weight_names
from jaxvae.train.patterns import by_name


class Weights(NamedTuple):
    """What `read_weights` read.

    Attributes:
      config: of the run.
      weights: 'raw' or the name of the average.
      step: of the checkpoint.
      params: nested Flax parameters, on one device.
    """

    run: Run
    config: Any
    weights: str
    step: int
    params: dict[str, Any]


def read_weights(path: str | Path, weights: str = "", step: int | None = None) -> Weights:
    """Reads the parameters of a run; arguments as those of `open_run`.

    Raises:
      UserError: if there is no run or no such checkpoint, or it is damaged.
    """
    run, step = locate(Path(path).expanduser(), step)
    config = run.config()
    weights = weights or config.train.eval_weights
    choose("--weights", weights, ("raw", *config.optim.ema))
    checkpoints, step = find_checkpoint("RUN", str(run.folder if step is None else run.checkpoint(step)))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    try:
        found = checkpoints.arrays(step)
        names = weight_names(found, weights)
        shapes = {n: jax.ShapeDtypeStruct(found[n].shape, found[n].dtype, sharding=here) for n in names.values()}
        arrays = by_name(checkpoints.read(step, unflatten_dict(shapes, sep="/")))
    except Damaged as error:
        raise UserError(
            f"checkpoint {checkpoints.folder / str(step)} is damaged ({error}): name another step"
        ) from None
    # Collections beside the parameters stay where they are.
    params = {n: arrays[source] for n, source in names.items() if not source.startswith("collections/")}
    return Weights(run, config, weights, step, unflatten_dict(params, sep="/"))
