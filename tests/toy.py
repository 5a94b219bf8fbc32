"""A toy system: all that a task can ask of the trainer, in a model of a hundred weights.

Examples are ragged sequences of points of one of three kinds. A variational autoencoder without attention
reconstructs them; it has a floor under the mean KL of the batch, noise, times and dropped conditions by example, a
codebook and running averages that are updated from additive sums, and sequences that are padded.

    with among_tasks():
        train(get_config(), folder)
"""

import contextlib
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import losses, tasks
from jaxvae.config import ema_row, trainer_config
from jaxvae.nn.activations import gelu
from jaxvae.nn.broadcast import add_broadcast
from jaxvae.nn.dense import Dense
from jaxvae.nn.gaussian import GaussianPosterior
from jaxvae.nn.norms import LayerNorm
from jaxvae.stats import Mean, Sum, compute
from jaxvae.tasks.task import Aux

KINDS = 3
# Sequences are padded to one of these lengths.
LENGTHS = (4, 8)


def get_config(task: str = "toy"):
    """The configuration of one of the toys, locked."""
    c = trainer_config()
    c.task, c.preset = task, "toy"
    c.model = dict(width=8, zdim=2, codes=4)
    c.loss = dict(
        kl_weight=0.1,
        free_bits=0.2,  # nats
        free_bits_mode="total",
        commitment_weight=0.25,
        codebook_decay=0.9,
        drop=0.3,  # share of examples whose kind is hidden
    )
    c.data = dict(batch_size=8, workers=1, examples=40)
    c.optim.lr = 3e-2
    c.optim.ema.average = ema_row(decay=0.9)
    c.train.eval_weights = "average"
    return c.lock()


class ToySource:
    """`count` sequences of 2 to 8 points around a centre that depends on the kind; `skip` makes it other ones."""

    capacities = tuple((length,) for length in LENGTHS)

    def __init__(self, count: int, skip: int):
        rng = np.random.default_rng(skip)
        self.lengths = rng.integers(2, LENGTHS[-1] + 1, count)
        self.points = [
            np.array([i % KINDS, 1.0]) + 0.3 * rng.normal(size=(n, 2)).cumsum(0) for i, n in enumerate(self.lengths)
        ]
        self.fingerprint, self.skipped = f"{skip}-{count}", {}

    def __len__(self):
        return len(self.points)

    def name(self, index):
        return f"sequence {index}"

    def draw(self, seed, epoch):
        return np.zeros(len(self), int)

    def sizes(self, draws):
        return self.lengths[:, None]

    def load(self, index, draw):
        return {"points": self.points[index].astype(np.float32), "kind": np.int32(index % KINDS)}

    def collate(self, examples, capacity):
        points = np.zeros((len(examples), *capacity, 2), np.float32)
        mask = np.zeros(points.shape[:2], bool)
        for row, example in enumerate(examples):
            mask[row, : len(example["points"])] = True
            points[row, mask[row]] = example["points"]
        return {"points": points, "mask": mask, "kind": np.array([example["kind"] for example in examples])}


class ToyModel(nn.Module):
    """Points [B, L, 2] -> posterior over z [B, Z] -> points; collections `codebook` and `averages`."""

    width: int
    zdim: int
    codes: int
    dtype: jnp.dtype

    def setup(self):
        self.inner, self.head = Dense(self.width, self.dtype), Dense(2 * self.zdim, self.dtype)
        self.norm = LayerNorm(dtype=self.dtype)
        self.slot = nn.Embed(LENGTHS[-1], self.width)
        self.kind = nn.Embed(KINDS + 1, self.width)  # the last one says nothing
        self.latent, self.out = Dense(self.width, self.dtype), Dense(2, self.dtype)
        grid = jnp.linspace(-1.0, 1.0, self.codes * self.zdim).reshape(self.codes, self.zdim)
        self.codebook = {
            "codes": self.variable("codebook", "codes", lambda: grid),
            "count": self.variable("codebook", "count", jnp.ones, self.codes),
            "total": self.variable("codebook", "total", lambda: jnp.copy(grid)),
        }
        self.mean = self.variable("averages", "mean", jnp.zeros, 2)
        self.variance = self.variable("averages", "variance", jnp.ones, 2)

    def encode(self, points, mask):
        points = (points - self.mean.value) * jax.lax.rsqrt(self.variance.value + 1e-5)
        h = gelu(self.inner(points.astype(self.dtype)))
        total = jnp.where(mask[..., None], h.astype(jnp.float32), 0.0).sum(1)
        h = self.norm(total / jnp.maximum(mask.sum(1, keepdims=True), 1))
        return GaussianPosterior.from_parameters(*jnp.split(self.head(h), 2, axis=-1), (-10.0, 10.0))

    def nearest(self, mean):
        """The codes nearest to [B, Z] and their indices [B]."""
        codes = self.codebook["codes"].value
        index = jnp.square(mean[:, None] - codes).sum(-1).argmin(-1)
        return codes[index], index

    def decode(self, z, code, kind, length):
        h = self.latent((z + code).astype(self.dtype)) + self.kind(kind).astype(self.dtype)
        slots = jnp.broadcast_to(self.slot(jnp.arange(length)), (len(z), length, self.width))
        return self.out(gelu(add_broadcast(slots.astype(self.dtype), h[:, None]))).astype(jnp.float32)

    def __call__(self, points, mask, kind, eps):
        posterior = self.encode(points, mask)
        code, index = self.nearest(jax.lax.stop_gradient(posterior.mean))
        return posterior, code, index, self.decode(posterior.sample(eps), code, kind, points.shape[1])


class ToyTask:
    """See `jaxvae.tasks.task.UpdatingTask` and `LatentVariableTask`."""

    batch_coupled = ""
    float16_unsafe = ""
    captions: ClassVar = {"points": "targets left, reconstructions right, an example per row"}

    def __init__(self, config):
        self.config = config
        self.model = ToyModel(**config.model.to_dict(), dtype=jnp.dtype(config.precision.compute))

    def sources(self, report):
        return {"train": ToySource(self.config.data.examples, 0), "val": ToySource(12, 1)}

    def statistics(self, sources):
        return {"examples": np.float32(len(sources["train"]))}

    def init(self, rng, batch):
        eps = jnp.zeros((len(batch["valid"]), self.model.zdim))
        return self.model.init(rng, batch["points"], self.mask(batch), batch["kind"], eps)

    def draws(self, keys, batch):
        def draw(key):
            noise, time, drop = jax.random.split(key, 3)
            return {
                "eps": jax.random.normal(noise, (self.model.zdim,)),
                "time": jax.random.uniform(time),
                "drop": jax.random.bernoulli(drop, self.config.loss.drop),
            }

        return jax.vmap(draw)(keys)

    def mask(self, batch):
        return batch["mask"] & batch["valid"][:, None]

    def parts(self, batch, draws, posterior, code, predicted):
        """The losses as sums and weights over the examples at hand."""
        error = jnp.square(predicted - batch["points"]) * (0.5 + draws["time"])[:, None, None]
        distance = jnp.square(posterior.mean - code).sum(-1)
        return {
            "error": Mean.of(error, self.mask(batch)),
            "commitment": Mean.of(distance, batch["valid"]),
            "kl_vector": Mean.of(posterior.kl(), batch["valid"], axis=0),
        }

    def totals(self, variables, batch, draws, step):
        posterior = self.apply(variables, batch["points"], self.mask(batch), method="encode")
        kl = Mean.of(posterior.kl(), batch["valid"], axis=0)
        return {
            "error": Sum(2.0 * self.mask(batch).sum()),
            "commitment": Sum(1.0 * batch["valid"].sum()),
            "kl_vector": kl,
        }

    def terms(self, variables, batch, draws, totals, step):
        loss = self.config.loss
        kind = jnp.where(draws["drop"], KINDS, batch["kind"])
        posterior, code, index, predicted = self.apply(variables, batch["points"], self.mask(batch), kind, draws["eps"])
        parts = self.parts(batch, draws, posterior, code, predicted)
        if totals is None:
            totals = parts | {name: Sum(parts[name].weight) for name in ("error", "commitment")}
        kl = losses.kl_with_free_bits(parts["kl_vector"], totals["kl_vector"], loss.free_bits, loss.free_bits_mode)
        terms = {
            "error": losses.share(parts["error"], totals["error"].total),
            "kl": loss.kl_weight * kl,
            "commitment": loss.commitment_weight * losses.share(parts["commitment"], totals["commitment"].total),
        }
        stats = {"dropped": Mean.of(draws["drop"], batch["valid"]), "error": parts["error"]}
        return terms, Aux(stats, self.additions(batch, posterior.mean, index))

    def additions(self, batch, mean, index):
        chosen = jax.nn.one_hot(index, self.model.codes) * batch["valid"][:, None]
        points = jnp.where(self.mask(batch)[..., None], batch["points"], 0.0)
        sums = {
            "count": chosen.sum(0),
            "total": chosen.T @ jnp.where(batch["valid"][:, None], mean, 0.0),
            "points": 1.0 * self.mask(batch).sum(),
            "points_total": points.sum((0, 1)),
            "points_square": jnp.square(points).sum((0, 1)),
        }
        return jax.lax.stop_gradient(sums)

    def update(self, collections, additions):
        decay, book, averages = self.config.loss.codebook_decay, collections["codebook"], collections["averages"]

        def blend(old, new):
            return decay * old + (1 - decay) * new

        count, total = (blend(book[name], additions[name]) for name in ("count", "total"))
        mean = additions["points_total"] / additions["points"]
        variance = additions["points_square"] / additions["points"] - jnp.square(mean)
        return collections | {
            "codebook": {"codes": total / count[:, None], "count": count, "total": total},
            "averages": {
                "mean": blend(averages["mean"], mean),
                "variance": blend(averages["variance"], variance),
            },
        }

    def evaluate(self, variables, batch, draws, step):
        predicted = self.reconstruct(variables, batch, self.latents(variables, batch, draws, "mean"))
        posterior = self.apply(variables, batch["points"], self.mask(batch), method="encode")
        return self.score(batch, predicted) | {"kl_vector": Mean.of(posterior.kl(), batch["valid"], axis=0)}

    def summarize(self, stats):
        values = compute(stats)
        kl = float(np.maximum(values["kl_vector"].sum(), self.config.loss.free_bits))
        return {"error": float(values["error"]), "kl": kl, "loss": float(values["error"]) + kl}

    def latents(self, variables, batch, draws, z):
        posterior = self.apply(variables, batch["points"], self.mask(batch), method="encode")
        return {"mean": posterior.mean, "posterior": posterior.sample(draws["eps"]), "prior": draws["eps"]}[z]

    def reconstruct(self, variables, batch, latents):
        code, _ = self.apply(variables, latents, method="nearest")
        return self.apply(variables, latents, code, batch["kind"], batch["points"].shape[1], method="decode")

    def score(self, batch, reconstruction):
        return {"error": Mean.of(jnp.square(reconstruction - batch["points"]), self.mask(batch))}

    def show(self, variables, batch, draws):
        predicted = self.reconstruct(variables, batch, self.latents(variables, batch, draws, "mean"))
        both = jnp.concatenate([batch["points"], predicted], axis=1)
        return {"points": jax.nn.sigmoid(both.reshape(len(both), -1))}

    def apply(self, variables, *args, method="__call__"):
        model = {name: variables[name] for name in ("params", "codebook", "averages")}
        return self.model.apply(model, *args, method=method)


class CoupledToy(ToyTask):
    """A toy with a loss that compares the examples of a batch."""

    batch_coupled = "its contrastive term compares the examples of a batch"


class UnsafeToy(ToyTask):
    """A toy with an operation that overflows in float16."""

    float16_unsafe = "its distances go beyond 65504"


TOYS = {"toy": ToyTask, "toy_coupled": CoupledToy, "toy_unsafe": UnsafeToy}


@contextlib.contextmanager
def among_tasks():
    """While this lasts the toys are tasks like any other."""
    with pytest.MonkeyPatch.context() as patch:
        for name, toy in TOYS.items():
            patch.setitem(tasks.TASKS, name, toy)
        yield
