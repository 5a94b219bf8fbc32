"""The commands in benchmarks/ on tiny problems: numbers that agree, one line for a mistake, twins that are proved."""

import importlib.util
import json
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import CHANGES, ROOT, tiny_config

from jaxvae import tasks
from jaxvae.data.plan import PlannedBatch
from jaxvae.errors import UserError
from jaxvae.outlines import END, NEW, L, M, Z
from jaxvae.stats import Mean
from jaxvae.train.dispatch import Sent
from jaxvae.train.state import State

sys.path.insert(0, str(ROOT / "benchmarks"))

import glyph_reference
import results
import step as step_command
import twins

BENCHMARKS = ROOT / "benchmarks"

CONFIG = "--config=configs/glyph_vae.py:quickstart"
TINY = [f"--config.{key}={value}" for key, value in CHANGES["glyph_vae"].items()]
ROWS = CHANGES["glyph_vae"]["data.batch_size"]
# What makes the twin compute all there is: a decoder that sees images, patches that do not divide them, and a KL
# that no floor keeps from counting.
FULL = ["--config.model.decoder_image=full", "--config.data.image_size=20", "--config.loss.free_bits=0"]
TERMS = {"loss", "grad_norm", "term_ce", "term_l1", "term_kl"}
SHAPES = {"4x1x8x8x4": [4, 1, 8, 8, 4], "4x2x4x6x2": [4, 2, 4, 6, 2]}
MIB = 2**20

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed: pip install -e '.[torch]'"
)


@pytest.fixture
def command(run_python, tmp_path):
    """Runs a benchmark; returns (what it wrote as JSON, what it printed)."""

    def run(script, *arguments):
        path = tmp_path / "numbers.json"
        found = run_python(BENCHMARKS / script, "--rounds=1", f"--json={path}", *arguments)
        assert found.returncode == 0, found.stderr[-2000:]
        return json.loads(path.read_text()), found.stdout.rstrip("\n")

    return run


def test_every_command_that_measures_is_tested_here():
    commands = {path.name for path in BENCHMARKS.glob("*.py") if '"rounds"' in path.read_text(encoding="utf-8")}
    assert commands == {"attention.py", "data_glyphs.py", "dispatch.py", "step.py"}


# The train step


def test_a_step_alone(command):
    # Two rounds, so that minimum and median differ.
    numbers, text = command("step.py", CONFIG, *TINY, "--rounds=2")
    check_numbers(numbers)
    check_text(numbers, text)
    assert numbers["capacity"] == largest_capacity()
    assert numbers["times"].keys() == {"jaxvae"}
    assert numbers["rounds"] == 2
    assert not {"ratio", "difference"} & numbers.keys()
    assert "torch" not in numbers["versions"]

    assert step_command.report(numbers) == text
    busy = {"jaxvae": numbers["times"]["jaxvae"] | {"busy": True}}
    more = step_command.report(numbers | {"times": busy, "device_peak_bytes": 3 * MIB})
    assert "warning       a median is far above" in more
    assert "on device     3 MiB" in more


@needs_torch
def test_a_step_against_torch(command):
    (largest,) = largest_capacity()
    # A capacity that is none of the data's, so that every example is padded.
    numbers, text = command("step.py", CONFIG, *TINY, *FULL, "--against=torch", f"--capacity={largest - 1}")
    check_numbers(numbers)
    lines = check_text(numbers, text)
    assert numbers["capacity"] == [largest - 1]
    assert numbers["times"].keys() == {"jaxvae", "torch"}
    assert "torch" in numbers["versions"]
    assert numbers["ratio"] == pytest.approx(numbers["times"]["jaxvae"]["min"] / numbers["times"]["torch"]["min"])
    assert f"{numbers['ratio']:.2f} = jaxvae's step / torch's" in lines["ratio"]
    assert numbers["difference"].keys() == TERMS
    assert all(0 <= difference <= 1e-4 for difference in numbers["difference"].values())
    assert all(name in lines["equality"] for name in TERMS)


@needs_torch
@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        ["model.decoder_image=none", "loss.class_weights=none", "optim.decay_on=all"],
        ["loss.free_bits_mode=per_dim", "loss.free_bits=0.01", "loss.class_weights=inverse_with_absent"],
        ["model.decoder_mask=free", "loss.kl_scale=token"],
        [
            "model.decoder_mask=free",
            "model.decoder_tokens=previous",
            "model.decoder_image=none",
            "loss.previous_noise=0.05",
        ],
        ["loss.detach_l1_and_kl=True", "optim.clip.norm=0", "loss.beta_warmup=0", "data.prefix_end=overwrite"],
    ],
)
def test_the_twin_is_equal_in_other_configurations(command, changes):
    numbers, _ = command("step.py", CONFIG, *TINY, *FULL, "--against=torch", *(f"--config.{c}" for c in changes))
    assert numbers["difference"].keys() == TERMS


def largest_capacity():
    return list(tasks.build(tiny_config("glyph_vae")).sources(lambda line: None)["train"].capacities[-1])


def check_numbers(numbers):
    """All are positive, and agree with each other."""
    without = {name: value for name, value in numbers.items() if name != "difference"}
    assert not {path: x for path, x in numbers_of(without) if not 0 < x < float("inf")}

    assert numbers["batch"]["valid"] == [ROWS] and numbers["examples"] <= ROWS
    assert numbers["batch"]["commands"] == [ROWS, *numbers["capacity"]]
    assert numbers["compute"] == "float32" and numbers["devices"] == ["cpu"]

    assert all(t["min"] <= t["median"] for t in numbers["times"].values())
    best, peak = numbers["times"]["jaxvae"]["min"], numbers["matmul_peak"]["float32"]["flops_per_s"]
    assert numbers["examples_per_s"] == pytest.approx(numbers["examples"] / best)
    assert numbers["flops_per_s"] == pytest.approx(numbers["step_flops"] / best)
    assert numbers["share_of_peak"] == pytest.approx(numbers["flops_per_s"] / peak)
    assert numbers["share_of_peak"] <= 1

    memory = numbers["memory"]
    assert memory["total"] == sum(memory[k] for k in ("arguments", "outputs", "temporaries")) - memory["aliased"]
    # Weights, two moments and an average, float32; all of them are overwritten in place.
    assert memory["aliased"] >= 4 * 4 * numbers["parameters"]


def numbers_of(tree, path=""):
    """(path, number) of every number in what JSON gave."""
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from numbers_of(value, f"{path}/{key}")
    elif isinstance(tree, int | float) and not isinstance(tree, bool):
        yield path, tree


def check_text(numbers, text):
    """The text holds the numbers; returns its lines by their labels."""
    lines = {line[:14].strip(): line[14:] for line in text.splitlines()}
    memory, peak = numbers["memory"], numbers["matmul_peak"]["float32"]
    promised = {
        "task": ["glyph_vae:quickstart", f"{numbers['parameters']:,} parameters", "float32"],
        "device": ["1 x cpu", f"{numbers['threads']} threads"],
        "versions": [f"jax {jax.__version__}"],
        "batch": [f"{numbers['examples']} examples", f"commands {numbers['batch']['commands']}"],
        "compile": [f"{numbers['trace_s']:.1f} s to trace", f"{numbers['compile_s']:.1f} s to compile"],
        "memory": [f"{memory['total'] / MIB:,.0f} MiB", f"temporaries {memory['temporaries'] / MIB:,.0f}"],
        "peak float32": [f"{peak['flops_per_s'] / 1e9:,.0f} GFLOP/s", f"side {peak['size']}"],
        "speed": [f"{numbers['examples_per_s']:,.1f} examples/s", f"{numbers['share_of_peak']:.0%} of the peak"],
    }
    for name, times in numbers["times"].items():
        promised[f"step {name}"] = [f"{1e3 * times['min']:,.2f} ms at best of {numbers['rounds']}"]
    for label, parts in promised.items():
        for part in parts:
            assert part in lines[label]
    return lines


# The batch that is measured


def setup_with(capacities, batches):
    """As much of a Setup as `choose_batch` sees: `batches` are (capacity, number of examples) of an epoch."""
    planned = [PlannedBatch(capacity, np.arange(count), np.zeros(count)) for capacity, count in batches]
    plan = SimpleNamespace(batch=planned.__getitem__, steps_per_epoch=len(planned))
    return SimpleNamespace(sources={"train": SimpleNamespace(capacities=capacities)}, plan=plan)


@pytest.mark.parametrize(
    ("asked", "capacity", "examples"),
    [((), (40,), 8), ((40,), (40,), 8), ((39,), (39,), 7), ((24,), (24,), 7), ((30,), (30,), 7)],
)
def test_the_widest_batch_that_fits_is_measured(asked, capacity, examples):
    setup = setup_with([(24,), (40,)], [((24,), 3), ((40,), 8), ((24,), 7), ((40,), 2)])
    chosen = step_command.choose_batch(setup, asked)
    assert (chosen.capacity, len(chosen.indices)) == (capacity, examples)


@pytest.mark.parametrize("asked", [(41,), (23,), (0,), (-1,), (40, 40)])
def test_a_capacity_that_the_data_does_not_have_is_refused(asked):
    setup = setup_with([(24,), (40,)], [((24,), 3), ((40,), 8)])
    with pytest.raises(UserError, match="the data has 24; 40;"):
        step_command.choose_batch(setup, asked)


def test_a_capacity_of_several_sizes_holds_each_of_them():
    setup = setup_with([(8, 16), (16, 32)], [((8, 16), 4), ((16, 32), 4)])
    assert step_command.choose_batch(setup, (12, 20)).capacity == (12, 20)
    with pytest.raises(UserError, match="8,16; 16,32"):
        step_command.choose_batch(setup, (16, 8))


# Mistakes


@pytest.mark.parametrize(
    ("script", "arguments", "parts"),
    [
        ("step.py", [CONFIG, "--capacity=abc"], ["--capacity=abc", "numbers"]),
        ("step.py", [CONFIG, *TINY, "--capacity=9999"], ["--capacity=9999", "the data has"]),
        ("step.py", [CONFIG, "--json=no/such/folder/x.json"], ["--json", "folder"]),
        ("attention.py", ["--shapes=4x1x8x8"], ["--shapes=4x1x8x8", "BxHxLqxLkxd"]),
        pytest.param(
            "step.py",
            [CONFIG, "--against=torch", "--config.precision.compute=bfloat16"],
            ["precision.compute", "'bfloat16'", "float32 only"],
            marks=needs_torch,
        ),
    ],
)
def test_mistakes_end_in_one_line(run_python, script, arguments, parts):
    found = run_python(BENCHMARKS / script, *arguments)
    assert found.returncode == 2, found.stderr[-2000:]
    (line,) = found.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert [part for part in parts if part not in line] == [], line


# Twins


def test_without_torch_there_is_a_hint_at_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="torch is not installed: pip install"):
        twins.find_twin(tiny_config("glyph_vae"))


@needs_torch
@pytest.mark.parametrize(
    "change",
    [
        {"precision__compute": "bfloat16"},
        {"optim__accum": 2},
        {"optim__name": "sgd"},
        {"optim__clip__name": "percentile"},
        {"optim__freeze": "encoder"},
    ],
)
def test_a_twin_refuses_what_it_cannot_do(change):
    assert twins.find_twin(tiny_config("glyph_vae")).TorchTwin
    with pytest.raises(UserError, match=next(iter(change)).replace("__", ".")):
        twins.find_twin(tiny_config("glyph_vae", **change))


class OtherTwin:
    """Says what it is told to; `draws` is what it was given."""

    compared_at = 7

    def __init__(self, **losses):
        self.answer = losses

    def losses(self, draws):
        self.draws = draws
        return self.answer


def prove(twin):
    """`prove_equal` on a step whose loss is the number of updates made before it."""
    zero = jnp.int32(0)
    state = State({"w": jnp.ones(2)}, step=zero, updates=zero, skips=zero, key=jax.random.key(0))

    def compiled(state, batch):
        stats = {"loss": state.step, "term_x": state.step - 7, "grad_norm": jnp.float32(2.0), "lr": jnp.float32(3.0)}
        return Sent(state, {name: Mean.per_batch(value) for name, value in stats.items()}, jnp.int32(0))

    task = SimpleNamespace(draws=lambda keys, batch: {"noise": jax.vmap(jax.random.normal)(keys) + batch["shift"]})
    step = SimpleNamespace(state=state, compiled=compiled, batch={"shift": 5.0})
    return twins.prove_equal(SimpleNamespace(rows=3, task=task), step, twin)


def test_equality_is_proved_at_the_step_that_the_twin_names():
    twin = OtherTwin(loss=7 * (1 + 5e-5), term_x=0.0, grad_norm=2.0)
    difference = prove(twin)
    assert difference == {"loss": pytest.approx(5e-5, rel=1e-2), "term_x": 0.0, "grad_norm": 0.0}
    assert len(set(twin.draws["noise"])) == 3 and abs(twin.draws["noise"] - 5).max() < 5


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"loss": 7 * (1 + 2e-4)}, "loss"),
        ({"loss": 0.0}, "loss"),
        ({"term_x": 1e-6}, "term_x"),
        ({"grad_norm": float("nan")}, "grad_norm"),
        ({"term_x": None}, "term_x"),
    ],
)
def test_a_twin_that_computes_something_else_is_found(wrong, named):
    losses = {"loss": 7.0, "term_x": 0.0, "grad_norm": 2.0} | wrong
    twin = OtherTwin(**{name: value for name, value in losses.items() if value is not None})
    with pytest.raises(RuntimeError, match=f"differ by more than .*'{named}'"):
        prove(twin)


# Blocks of updates


def test_a_block_is_compared_with_single_updates(command):
    numbers, text = command("dispatch.py", CONFIG, *TINY, "--updates=2")
    assert numbers["updates"] == 2 and numbers["ratio"] == pytest.approx(numbers["block"] / numbers["single"])
    assert f"ratio {numbers['ratio']:.2f}" in text and f"{1e3 * numbers['block']:.2f} ms in a block of 2" in text


def test_a_block_larger_than_the_data_is_refused(run_python):
    found = run_python(BENCHMARKS / "dispatch.py", CONFIG, *TINY, "--updates=99")
    assert found.returncode == 2 and "--updates=99: the data has" in found.stderr


# Images of glyphs


def test_images_are_compared_with_a_large_one_and_trained_on(command):
    arguments = ["--glyphs=5", "--updates=2", "--config.data.image_size=32"]
    numbers, text = command("data_glyphs.py", CONFIG, *TINY, *arguments)
    assert numbers["ways"].keys() == {"analytic", "raster"}
    assert (numbers["glyphs"], numbers["updates"], numbers["size"]) == (5, 2, 32)
    analytic, raster = numbers["ways"]["analytic"], numbers["ways"]["raster"]
    assert analytic["mean_px"] < 0.05 < 0.2 < raster["mean_px"] < 0.8
    assert analytic["wrong_side"] == 0 and analytic["p99_px"] < raster["p99_px"]
    assert analytic["load_s"] < raster["load_s"]
    for way, measured in numbers["ways"].items():
        assert measured["update_s"] > 0 and 0 <= measured["data_wait"] < 1
        assert f"{way:10}error {measured['mean_px']:.3f} px mean" in text
    (row, _) = results.images_table([numbers]).splitlines()[2:]
    assert f"| analytic | {analytic['mean_px']:.3f} |" in row


def test_the_reference_of_images_is_a_distance():
    commands, size = np.array([NEW, M, L, L, L, Z, END], np.int32), 16
    coords = np.zeros((7, 4), np.float32)
    # A rectangle, of which columns 3 to 8 and rows 2 to 11 are inside.
    coords[1:5, :2] = np.array([[3, 2], [9, 2], [9, 12], [3, 12]]) * [2 / 15, -2 / 15] + [-1, 1]
    found = glyph_reference.reference(commands, coords, np.ones(7, bool), size)
    np.testing.assert_allclose(found[6, :7], [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.5], atol=0.05)
    np.testing.assert_allclose([found[0, 1], found[14, 12]], [-np.hypot(1.5, 1.5), -np.hypot(3.5, 2.5)], atol=0.05)
    assert (glyph_reference.reference(commands, coords, np.zeros(7, bool), size) == -np.inf).all()


def test_errors_of_images_count_within_the_clip():
    references = np.array([-np.inf, -5, -2.0, -0.5, 0.5, 3.0])
    images = np.array([0.0, 0.0, -1.0, 0.25, 0.25, -1.0])
    found = glyph_reference.errors(images, references, 4.0)
    assert found["mean_px"] == pytest.approx((2 + 1.5 + 0.5 + 7) / 4) and found["max_px"] == 7
    assert found["wrong_side"] == 0.5


# Attention


def test_attention_compares_all_variants_on_every_shape(command):
    numbers, text = command("attention.py", f"--shapes={','.join(SHAPES)}")
    baseline, lines = numbers["baseline"], text.splitlines()
    assert baseline == ("torch" if importlib.util.find_spec("torch") else "naive")
    assert numbers["versions"]["jax"] == jax.__version__ and numbers["devices"] == ["cpu"]
    for name, shape in SHAPES.items():
        rows = {row["variant"]: row for row in numbers["rows"] if row["shape"] == shape}
        assert {"library", "library, in one piece", "naive", "lean", baseline} <= rows.keys()
        best = rows[baseline]["milliseconds"]
        (start,) = (at for at, line in enumerate(lines) if line.startswith(f"{name}: {baseline} {best:.2f} ms"))
        printed = {line[2:32].rstrip(): line[32:] for line in lines[start + 1 : start + 1 + len(rows)]}
        for variant, row in rows.items():
            assert row["milliseconds"] > 0
            assert row["ratio"] == pytest.approx(row["milliseconds"] / best)
            if variant == "torch":
                continue
            assert row["temp_mib"] > 0
            assert printed[variant].split() == f"{row['ratio']:.2f} [{row['temp_mib']:5.0f}]".split()
    assert len(numbers["rows"]) == len(SHAPES) * len(rows)
