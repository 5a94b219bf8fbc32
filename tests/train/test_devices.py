"""One mesh, one rule: however many devices take part and however they share the state, the numbers are the same."""

import json
import shutil

import numpy as np
import pytest
from logs import assert_same_rows

from jaxvae.run import read_rows
from jaxvae.train.checkpoint import Checkpoints

# Losses of five updates, and the gradients of the first: the momentum of SGD without momentum. Six examples in a batch,
# which no number of devices but 1 and 2 divides.
LEARN = """
import sys; sys.path.insert(0, "tests")
import jax, numpy as np
from tiny import tiny_config
from jaxvae.data.loader import Loader, single_steps
from jaxvae.stats import compute
from jaxvae.train import sharding
from jaxvae.train.build import build
from jaxvae.train.patterns import by_name

sharding.SMALL = 64  # the tiny model has nothing else to split
out, *layouts = sys.argv[1:]
for layout in layouts:
    data, fsdp, accum = map(int, layout.split("x"))
    config = tiny_config(
        "glyph_vae", parallel__data=data, parallel__fsdp=fsdp, optim__accum=accum, data__batch_size=6,
        data__num_buckets=1, optim__name="sgd", optim__b1=0.0, optim__lr=0.02, optim__clip__norm=0.0,
        optim__schedule__name="constant", optim__schedule__warmup_steps=0,
    )
    parts = build(config, lambda line: None)
    assert parts.rows % (data * fsdp * accum) == 0
    state, dispatch, losses, gradients = parts.create(), parts.dispatch(), [], {}
    split = sum(not leaf.is_fully_replicated for leaf in jax.tree.leaves(state.params))
    assert (split > 20) == (fsdp > 1), split
    for block, batch in Loader(parts.plan, parts.rows, single_steps(0, 5), 1):
        state, stats, _ = dispatch(state, block, batch)
        losses.append(compute(stats)["loss"])
        if not gradients:
            gradients = {n: np.asarray(x) for n, x in by_name(state.opt_state).items() if "/trace/" in f"/{n}"}
    assert len(gradients) == len(jax.tree.leaves(state.params))
    np.savez(f"{out}/{layout}.npz", losses=np.array(losses), **gradients)
"""


@pytest.fixture(scope="module")
def learn(run_python, tmp_path_factory):
    """Runs LEARN on so many devices for layouts data x fsdp x accum; returns the arrays of each."""
    folder = tmp_path_factory.mktemp("learned")

    def run(devices, *layouts):
        found = run_python(LEARN, str(folder), *layouts, devices=devices)
        assert found.returncode == 0, found.stderr[-2000:]
        return {layout: dict(np.load(folder / f"{layout}.npz")) for layout in layouts}

    return run


def test_layouts_of_four_devices_equal_one_device(learn):
    alone = learn(1, "1x1x1")["1x1x1"]
    assert np.ptp(alone["losses"]) > 0.01, "nothing is learned"
    for layout, found in learn(4, "4x1x1", "1x4x1", "2x2x1", "4x1x2").items():
        np.testing.assert_allclose(found["losses"], alone["losses"], rtol=1e-5, err_msg=layout)
        assert found.keys() == alone.keys()
        for name in found.keys() - {"losses"}:
            bound = 1e-5 * max(np.abs(alone[name]).max(), 1e-3)
            assert np.abs(found[name] - alone[name]).max() <= bound, (layout, name)


# Trains, and prints the digests of the state with which it began.
GO_ON = """
import sys; sys.path.insert(0, "tests")
import json
import toy_config
from jaxvae.train import loop
from jaxvae.train.digest import digests

def prepare(*arguments, prepare=loop.prepare):
    setup = prepare(*arguments)
    print(json.dumps(digests(setup.state)))
    return setup

loop.prepare, loop.write_report = prepare, lambda setup: "nowhere"
folder, fsdp, steps = sys.argv[1:]
loop.train(toy_config.get_config(parallel__fsdp=int(fsdp), train__total_steps=int(steps)), folder)
"""


@pytest.fixture(scope="module")
def go_on(run_python):
    """Trains in a folder up to a step; returns what the state was at the start, as digests by name."""

    def run(folder, devices, fsdp, steps):
        found = run_python(GO_ON, str(folder), str(fsdp), str(steps), devices=devices)
        assert found.returncode == 0, found.stderr[-2000:]
        return json.loads(next(line for line in found.stdout.splitlines() if line.startswith("{")))

    return run


def test_a_checkpoint_moves_between_numbers_of_devices(go_on, tmp_path):
    on_four, on_one = tmp_path / "four", tmp_path / "one"
    go_on(on_four, 4, 2, 4)
    go_on(on_one, 1, 1, 4)
    runs = []
    for start, devices, fsdp in ((on_four, 1, 1), (on_four, 2, 2), (on_one, 4, 4)):
        saved = Checkpoints(start / "checkpoints").digests(4)
        runs.append(tmp_path / f"{start.name}-{devices}")
        shutil.copytree(start, runs[-1])
        assert go_on(runs[-1], devices, fsdp, 6) == saved
    assert [row["step"] for row in read_rows(runs[0] / "metrics.jsonl")] == [0, 2, 3, 4, 6]
    for run in runs[1:]:
        assert_same_rows(run, runs[0])


REFUSED = """
import sys; sys.path.insert(0, "tests")
import toy_config
from jaxvae.errors import UserError
from jaxvae.train.sharding import make_mesh

for data, fsdp in ((0, 3), (3, 1), (4, 2), (0, 8), (2, 2)):
    try:
        print("made", make_mesh(toy_config.get_config(parallel__data=data, parallel__fsdp=fsdp)).devices.shape)
    except UserError as error:
        print(error)
"""


def test_devices_that_do_not_divide_the_mesh_are_refused(run_python):
    found = run_python(REFUSED, devices=4)
    assert found.stdout.splitlines() == [
        "config.parallel.fsdp = 3: must divide the number of devices, 4",
        "config.parallel.data = 3: times config.parallel.fsdp = 1 must be the 4 devices (0 = all that fsdp leaves)",
        "config.parallel.data = 4: times config.parallel.fsdp = 2 must be the 4 devices (0 = all that fsdp leaves)",
        "config.parallel.fsdp = 8: must divide the number of devices, 4",
        "made (2, 2)",
    ], found.stderr[-2000:]


# The arrays of a fresh state with the shapes of their parts, and what a step lets the devices send each other.
PARTS = """
import sys; sys.path.insert(0, "tests")
import json, re
import toy_config
from jaxvae.data.loader import assemble
from jaxvae.train.build import build
from jaxvae.train.patterns import by_name
from jaxvae.train.sharding import batch_sharding, put

built = build(toy_config.get_config(parallel__fsdp=2, optim__accum=2), lambda line: None)
state = built.create()
parts = {n: [x.shape, x.addressable_shards[0].data.shape] for n, x in by_name(state).items()}
batch = put(assemble(built.plan, built.plan.batch(0), built.rows), batch_sharding(built.mesh))
text = built.dispatch().single.lower(state, batch).compile().as_text()
print(json.dumps([parts, re.findall(r" (all-[a-z]+|collective-[a-z]+|reduce-scatter)(?:-start)?\\(", text)]))
"""


def test_one_rule_splits_weights_moments_and_averages_alike(run_python):
    found = run_python(PARTS, devices=4)
    assert found.returncode == 0, found.stderr[-2000:]
    parts, sent = json.loads(found.stdout)
    assert set(sent) == {"all-gather", "all-reduce"}, "weights and gradients travel, and activations stay"
    weights = {name.removeprefix("params/") for name in parts if name.startswith("params/")}
    for name in weights:
        of_name = [part for other, part in parts.items() if other.endswith(f"/{name}")]
        assert len(of_name) == 4, "itself, its average, and two moments"
        assert all(part == of_name[0] for part in of_name)
    assert parts["params/slot/embedding"] == [[8, 8], [4, 8]]
    assert parts["params/latent/kernel"] in ([[2, 8], [2, 4]], [[8, 2], [4, 2]])
    assert parts["params/out/bias"] == [[2], [2]], "too small"


# Spoils the copy of an array on the last of four devices: in a state, and in the middle of a training.
REPLICAS = """
import sys; sys.path.insert(0, "tests")
import jax, numpy as np
import toy_config
from jaxvae.errors import UserError
from jaxvae.train import loop
from jaxvae.train.build import build
from jaxvae.train.dispatch import Dispatch
from jaxvae.train.patterns import leaf_name
from jaxvae.train.replicas import check_replicas

def spoil(state, name):
    def change(path, x):
        if leaf_name(path) != name:
            return x
        *others, last = (shard.data for shard in x.addressable_shards)
        last = jax.device_put(np.nextafter(np.asarray(last), np.float32(9)), last.device)
        return jax.make_array_from_single_device_arrays(x.shape, x.sharding, [*others, last])

    return jax.tree_util.tree_map_with_path(change, state)

def check(state):
    try:
        check_replicas(state)
        print("equal")
    except UserError as error:
        print(error)

state = build(toy_config.get_config(parallel__fsdp=2), lambda line: None).create()
check(state)
check(spoil(state, "params/out/bias"))
check(spoil(state, "ema/average/inner/kernel"))  # of whose halves there are two copies each

def call(self, state, block, batch, call=Dispatch.__call__):
    sent = call(self, state, block, batch)
    return sent._replace(state=spoil(sent.state, "params/latent/bias")) if block.stop == 3 else sent

Dispatch.__call__ = call
try:
    loop.train(toy_config.get_config(train__replica_check_every=2, train__save_every=2), sys.argv[1])
except UserError as error:
    print(error)
"""


def test_copies_that_differ_end_the_training(run_python, tmp_path):
    found = run_python(REPLICAS, str(tmp_path / "run"), devices=4)
    assert found.returncode == 0, found.stderr[-2000:]
    equal, whole, half, *_, ended = found.stdout.splitlines()
    assert equal == "equal"
    assert whole.startswith("the copies of params/out/bias on ") and " and cpu:3 differ: a device" in whole
    assert half.startswith("the copies of ema/average/inner/kernel on ") and " and cpu:3 differ: a device" in half
    assert ended.startswith("the copies of params/latent/bias on ")
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [2], "what differs is not saved"
