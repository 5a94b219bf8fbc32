"""Checkpoints: which are kept, and what happens to those that are not what was saved."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from folders import no_room_for_files_above

from jaxvae.errors import UserError
from jaxvae.train.checkpoint import Checkpoints
from jaxvae.train.digest import digest_array, digests
from jaxvae.train.state import State

# When a read fails, the coroutines of others end some time later, in another test. A process has been silenced by
# then (jaxvae.train.orbax_noise), but pytest looks at each test with a hook of its own.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def state(step, **changes):
    """A small state whose arrays tell the step."""
    params = {"layer": {"kernel": jnp.arange(3000.0).reshape(30, 100) + step, "bias": jnp.full(7, step, jnp.bfloat16)}}
    ready = {
        "params": params,
        "opt_state": optax.adam(1e-3).init(params),
        "ema": {"average": jax.tree.map(jnp.copy, params)},
        "lr_scale": {"default": jnp.ones(())},
        "step": jnp.int32(step),
        "updates": jnp.int32(step),
        "skips": jnp.int32(0),
        "key": jax.random.key(step),
    }
    return State(**ready | changes)


def like(state):
    """Shapes of a state, to be placed on the first device."""
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state)


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of steps 1, 2 and 3."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=3)
    for step in (1, 2, 3):
        checkpoints.save(step, state(step), {"rows": [step, None]})
    checkpoints.close()
    return tmp_path / "checkpoints"


def test_what_is_restored_is_what_was_saved(folder):
    found = Checkpoints(folder).restore(like(state(0)))
    assert found.memory == {"rows": [3, None]} and found.notes == []
    saved = state(3)
    assert jax.tree.structure(found.state) == jax.tree.structure(saved)
    for a, b in zip(jax.tree.leaves(found.state), jax.tree.leaves(saved), strict=True):
        assert a.dtype == b.dtype
        a, b = (jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in (a, b))
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_the_newest_the_best_and_every_so_many_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2, keep_best=1, best_metric="loss", best_mode="min", keep_every=5)
    losses = {
        1: 9.0,
        2: 1.0,
        3: None,
        4: float("nan"),
        5: 8.0,
        6: 7.0,
        7: 6.0,
        8: 5.0,
        9: float("inf"),
        10: 4.0,
        11: 3.0,
    }
    for step, loss in losses.items():
        checkpoints.save(step, state(step), {}, None if loss is None else {"loss": loss, "other": -step})
    checkpoints.close()
    assert Checkpoints(tmp_path).steps() == [2, 5, 10, 11]
    # A restart keeps the same ones.
    again = Checkpoints(tmp_path, keep=2, keep_best=1, best_metric="loss", best_mode="min", keep_every=5)
    again.save(12, state(12), {}, {"loss": 2.0})
    again.close()
    assert Checkpoints(tmp_path).steps() == [2, 5, 10, 11, 12]


def test_the_best_may_be_the_largest(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1, keep_best=2, best_metric="loss", best_mode="max")
    for step, score in enumerate([0.1, 0.9, 0.3, 0.8, 0.2], start=1):
        checkpoints.save(step, state(step), {}, {"loss": score})
    checkpoints.close()
    assert Checkpoints(tmp_path).steps() == [2, 4, 5]


def test_another_metric_may_become_the_one_that_counts(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1, keep_best=2, best_metric="a")
    for step, a in enumerate([0.1, 0.2, 0.9, 0.8], start=1):
        checkpoints.save(step, state(step), {}, {"a": a, "b": -a})
    checkpoints.close()
    assert Checkpoints(tmp_path).steps() == [1, 2, 4]
    checkpoints = Checkpoints(tmp_path, keep=1, keep_best=1, best_metric="b")
    checkpoints.save(5, state(5), {}, {"a": 0.0, "b": 0.0})
    checkpoints.close()
    assert Checkpoints(tmp_path).steps() == [4, 5], "4 has the lowest b"


def test_a_checkpoint_whose_metrics_cannot_be_read_is_worth_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1, keep_best=1, best_metric="a")
    for step, a in enumerate([0.1, 0.9], start=1):
        checkpoints.save(step, state(step), {}, {"a": a})
    checkpoints.close()
    (tmp_path / "1" / "extra" / "metadata").write_bytes(b"\xff")
    checkpoints = Checkpoints(tmp_path, keep=1, keep_best=1, best_metric="a")
    assert int(checkpoints.restore(like(state(0))).state.step) == 2
    checkpoints.save(3, state(3), {}, {"a": 1.0})
    checkpoints.close()
    assert Checkpoints(tmp_path).steps() == [2, 3]


def test_a_renamed_checkpoint_is_not_what_it_says(folder):
    (folder / "3").rename(folder / "5")
    found = Checkpoints(folder).restore(like(state(0)))
    assert int(found.state.step) == 2
    assert "5 is damaged (it holds step 3)" in found.notes[0]


def largest_file(folder):
    return max((path for path in (folder / "state").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip(path, where=0.5):
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 0x10
    path.write_bytes(content)


def flip_every_part(folder):
    """A byte in every file of the arrays."""
    for path in (folder / "state").rglob("d/*"):
        flip(path)


def change_memory(folder):
    path = folder / "extra" / "metadata"
    path.write_text(path.read_text().replace("[3, null]", "[4, null]"))


def truncate(folder):
    path = largest_file(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "a flipped bit": lambda folder: flip(largest_file(folder)),
    "flipped bits everywhere": flip_every_part,
    "half a file": truncate,
    "no arrays": lambda folder: shutil.rmtree(folder / "state"),
    "no memory": lambda folder: shutil.rmtree(folder / "extra"),
    "another memory": change_memory,
    "no metadata": lambda folder: (folder / "state" / "_METADATA").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_and_set_aside(folder, damage, capfd):
    damage(folder / "3")
    capfd.readouterr()
    checkpoints = Checkpoints(folder, keep=3)
    found = checkpoints.restore(like(state(0)))
    assert int(found.state.step) == 2 and found.memory == {"rows": [2, None]}
    (note,) = found.notes
    assert f"checkpoint {folder / '3'} is damaged" in note and "continues from step 2" in note
    assert (folder / "3").exists(), "restoring touches nothing"
    checkpoints.set_aside(2)
    assert checkpoints.steps() == [1, 2] and (folder / "3.damaged").is_dir()
    # Its step can be saved again.
    checkpoints.save(3, state(3), {"rows": []})
    checkpoints.close()
    assert Checkpoints(folder).steps() == [1, 2, 3]
    assert Checkpoints(folder).restore(like(state(0))).memory == {"rows": []}
    said = capfd.readouterr()
    assert "Traceback" not in said.err and "Traceback" not in said.out


def test_if_all_are_damaged_there_is_one_line(folder):
    for step in (1, 2, 3):
        flip(largest_file(folder / str(step)))
    with pytest.raises(UserError, match=r"checkpoints/3 is damaged .* no sound one before it") as caught:
        Checkpoints(folder).restore(like(state(0)))
    assert "\n" not in str(caught.value)


def test_an_empty_folder_and_half_a_save_are_no_checkpoints(folder):
    (folder / "9").mkdir()
    shutil.copytree(folder / "3", folder / "10.orbax-checkpoint-tmp-3")
    checkpoints = Checkpoints(folder)
    assert checkpoints.steps() == [1, 2, 3]
    assert int(checkpoints.restore(like(state(0))).state.step) == 3
    (folder / "5").mkdir()
    (folder / "notes").mkdir()
    checkpoints.set_aside(3)
    assert {"5", "9"}.isdisjoint(path.name for path in folder.iterdir()), "half a save is removed"
    assert checkpoints.steps() == [1, 2, 3] and (folder / "notes").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"params": {"layer": {"kernel": jnp.zeros((30, 101)), "bias": jnp.zeros(7, jnp.bfloat16)}}},
            r"float32\[30, 101\] here",
        ),
        # Orbax would cast it without a word.
        (
            {"params": {"layer": {"kernel": jnp.zeros((30, 100)), "bias": jnp.zeros(7)}}},
            r"bfloat16\[7\] there and float32\[7\] here",
        ),
        ({"ema": {}}, "ema/average/layer/bias is bfloat16.7. there and missing here"),
        ({"loss_scale": {"scale": jnp.ones(())}}, "loss_scale/scale is missing there"),
    ],
    ids=["shape", "type", "too much", "too little"],
)
def test_another_architecture_is_refused_and_not_passed_over(folder, changes, words):
    with pytest.raises(UserError, match=words) as caught:
        Checkpoints(folder).restore(like(state(0, **changes)))
    assert "another architecture" in str(caught.value) and "\n" not in str(caught.value)


def test_a_disk_that_fills_leaves_the_checkpoints_before(folder, capfd):
    checkpoints = Checkpoints(folder, keep=3)
    noise = jax.random.normal(jax.random.key(0), (300, 1000))  # nothing that could be compressed
    words = r"could not be written .* step 3 and those before it are intact"
    with no_room_for_files_above(100_000), pytest.raises(UserError, match=words) as caught:
        checkpoints.save(4, state(4, params={"kernel": noise}), {})
        checkpoints.close()
    assert "\n" not in str(caught.value)
    said = capfd.readouterr()
    assert "Traceback" not in said.err + said.out
    assert {path.name for path in folder.iterdir()} == {"1", "2", "3"}
    assert int(Checkpoints(folder).restore(like(state(0))).state.step) == 3


def test_what_is_not_the_disk_is_not_blamed_on_it(folder, monkeypatch):
    checkpoints = Checkpoints(folder, keep=3)

    def broken(*args, **kwargs):
        raise TypeError("no such handler")

    monkeypatch.setattr(checkpoints.manager, "save", broken)
    with pytest.raises(TypeError, match="no such handler"):
        checkpoints.save(4, state(4), {})
    monkeypatch.setattr(checkpoints.manager, "save", lambda *args, **kwargs: False)
    with pytest.raises(RuntimeError, match="declined to save step 4"):
        checkpoints.save(4, state(4), {})


def test_a_step_that_is_there_is_not_saved_again(folder):
    checkpoints = Checkpoints(folder, keep=3)
    checkpoints.save(3, state(3), {"rows": "other"})
    checkpoints.close()
    assert Checkpoints(folder).read_memory(3) == {"rows": [3, None]}


def test_a_digest_sees_every_element_and_its_place():
    x = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    found = int(digest_array(jnp.asarray(x)))
    for i in range(x.size):
        other = x.copy()
        other.reshape(-1)[i] = np.nextafter(other.reshape(-1)[i], np.float32(9))
        assert int(digest_array(jnp.asarray(other))) != found
    assert int(digest_array(jnp.asarray(x[::-1]))) != found
    assert int(digest_array(jnp.asarray(x[:, ::-1]))) != found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "uint32", "int8", "bool"])
def test_digests_know_all_types(dtype):
    ones, other = jnp.ones(9, dtype), jnp.ones(9, dtype).at[4].set(jnp.zeros((), dtype))
    assert int(digest_array(ones)) != int(digest_array(other))
    assert digests({"a": {"b": ones}}) == {"a/b": int(digest_array(ones))}


def test_memory_is_json(folder):
    extra = json.loads((folder / "3" / "extra" / "metadata").read_text())
    assert extra["memory"] == {"rows": [3, None]}
    assert extra["digests"]["params/layer/kernel"] == int(digest_array(state(3).params["layer"]["kernel"]))


def test_the_state_may_go_as_soon_as_a_save_has_begun(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    big = state(1, params={"kernel": jnp.ones((2000, 1000))})
    checkpoints.save(1, big, {})
    jax.tree.map(lambda x: x.delete(), big.params)
    checkpoints.close()
    target = like(state(1, params={"kernel": jnp.ones((2000, 1000))}))
    assert float(Checkpoints(tmp_path).restore(target).state.params["kernel"].sum()) == 2e6
