"""Checkpoints of the original as runs and back: nothing lost, nothing guessed, mistakes named."""

import builtins
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from folders import contents
from safetensors.numpy import load_file, save_file
from tiny import tiny_config

from jaxvae.convert import glyph_vae as names
from jaxvae.convert.containers import read_container
from jaxvae.convert.names import from_flax, to_flax
from jaxvae.errors import UserError
from jaxvae.models import GlyphVAE
from jaxvae.tasks.glyph_vae import tokens_of
from jaxvae.train.evaluate_run import open_run
from jaxvae.train.setup import prepare
from jaxvae.use.conversion import export_weights, import_checkpoint

MODEL = dict(embed=16, zdim=4, heads=2, patch=8, vec_layers=2, enc_xlayers=1, dec_layers=2, max_len=64)
# With the original's decoder.
ORIGINAL = MODEL | names.ORIGINAL | {"decoder_image": "full"}
STEP = 17


def random_tensors(**changes):
    """Weights under the original's names."""
    model = ORIGINAL | changes
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), names.parameter_shapes(model))
    return from_flax(names.table(model), params)


@pytest.fixture(scope="module")
def tensors():
    return random_tensors()


@pytest.fixture(scope="module")
def npz(tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("original") / "weights.npz"
    np.savez(path, **tensors)
    return path


@pytest.fixture(scope="module")
def converted(npz, tmp_path_factory):
    """A run made of the tensors, and what was said."""
    said = []
    out = tmp_path_factory.mktemp("converted") / "run"
    import_checkpoint("glyph_vae", npz, out, tiny_config("glyph_vae"), {"heads": 2}, "command", said.append)
    return out, said


def test_there_and_back_is_bit_identical(converted, tensors, tmp_path):
    run, _ = converted
    for weights in ("raw", "average"):
        out = tmp_path / f"{weights}.safetensors"
        written = export_weights("glyph_vae", run, out, weights)
        assert written == {"tensors": len(tensors), "weights": weights, "step": 0}
        found = load_file(out)
        assert found.keys() == tensors.keys()
        assert all(found[name].tobytes() == tensors[name].tobytes() for name in tensors)


def test_the_run_is_the_model_of_the_tensors(converted, tensors):
    """Sizes come from the tensors and not from the configuration, and the outputs are those of the weights."""
    run, said = converted
    opened = open_run(run, report=said.append)
    assert {key: opened.parts.config.model[key] for key in MODEL} == MODEL
    assert "embed 16, zdim 4, patch 8, max_len 64" in said[0] and "heads 2 from --heads" in said[0]
    batch, task = opened.parts.evaluator("val").sample_batch(), opened.parts.task
    params = jax.tree.map(jnp.asarray, to_flax(names.table(ORIGINAL), tensors))
    eps = jnp.zeros((len(batch["valid"]), MODEL["zdim"]))
    tokens = tokens_of(batch)
    _, expected = jax.jit(GlyphVAE(**MODEL).apply)({"params": params}, tokens, task.images(batch), eps)
    mean = jax.jit(task.latents, static_argnums=3)(opened.variables, batch, {"eps": eps}, "mean")
    found = jax.jit(task.reconstruct)(opened.variables, batch, mean)
    np.testing.assert_allclose(found.coords, expected.coords, atol=1e-4)
    np.testing.assert_array_equal(found.mask, tokens.mask)


def test_the_run_can_be_trained_on_and_begun_from(converted, tmp_path):
    run, _ = converted
    config = open_run(run, report=lambda line: None).parts.config
    changes = {"init_from.path": str(run), "init_from.weights": "average"}
    config.update_from_flattened_dict(changes)
    setup = prepare(config, tmp_path / "second")
    setup.lock.close()
    assert any("starts from" in note for note in setup.notes)
    config.update_from_flattened_dict({"init_from.path": "", "init_from.weights": "raw"})
    setup = prepare(config, run)
    setup.lock.close()
    assert "continues from the checkpoint at step 0" in setup.notes


def split(tensors, part):
    return {name.removeprefix(f"{part}."): x for name, x in tensors.items() if name.startswith(f"{part}.")}


def test_a_torch_checkpoint_with_the_options_beside_it(tensors, tmp_path):
    torch = pytest.importorskip("torch")
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "training_config.json").write_text(json.dumps({"config_name": "mine", "heads": 2}))
    parts = {part: {k: torch.tensor(x) for k, x in split(tensors, part).items()} for part in ("enc", "dec")}
    rest = {"opt": {"state": {}, "param_groups": [{"lr": 1e-3}]}, "scaler": None, "step": STEP, "epoch": 2}
    torch.save(parts | rest, tmp_path / "ckpt" / "epoch2.pt")
    said, run, out = [], tmp_path / "run", tmp_path / "back.safetensors"
    import_checkpoint(
        "glyph_vae", tmp_path / "ckpt" / "epoch2.pt", run, tiny_config("glyph_vae"), {"heads": None}, report=said.append
    )
    assert f"heads 2 from {tmp_path / 'training_config.json'}" in said[0]
    assert export_weights("glyph_vae", run, out)["step"] == STEP
    assert all(x.tobytes() == tensors[name].tobytes() for name, x in load_file(out).items())
    facts = read_container(out, ()).facts
    assert (facts["heads"], facts["step"]) == ("2", str(STEP))


def test_torch_files_that_hold_something_else(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "x.pt"
    for value, words in (
        ([1], "x.pt holds a list: it must be a dictionary with enc, dec"),
        ({"model": {}}, "has no state dictionary 'enc', it has model"),
        ({"enc": {"a": 1}, "dec": {}}, "enc.a is a int: it must be a tensor"),
        ({"enc": {"a": torch.zeros(1, dtype=torch.bfloat16)}, "dec": {}}, "enc.a is bfloat16"),
        ({"enc": tmp_path}, "cannot be read as a PyTorch checkpoint of tensors"),  # a pickle of something else
    ):
        torch.save(value, path)
        with pytest.raises(UserError, match=words):
            import_checkpoint("glyph_vae", path, tmp_path / "run", tiny_config("glyph_vae"), {"heads": 2})


def test_torch_may_be_missing(tmp_path, monkeypatch):
    def without_torch(name, *args, original=builtins.__import__):
        if name == "torch":
            raise ImportError(name)
        return original(name, *args)

    (tmp_path / "x.pt").write_bytes(b"")
    monkeypatch.setattr(builtins, "__import__", without_torch)
    with pytest.raises(UserError, match=r"x.pt needs torch to be read: pip install 'jaxvae\[torch\]'"):
        import_checkpoint("glyph_vae", tmp_path / "x.pt", tmp_path / "run", tiny_config("glyph_vae"), {"heads": 2})


def without(name):
    return lambda tensors: tensors.pop(name)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (without("enc.vec.proj_cmd.weight"), "no glyph VAE: enc.vec.proj_cmd.weight missing"),
        (without("dec.head_cmd.bias"), r"does not fit the model: missing: dec\.head_cmd\.bias$"),
        (lambda t: t.update({"dec.more": t["dec.head_cmd.bias"]}), r"unexpected: dec\.more$"),
        (
            lambda t: t.update({"dec.head_cmd.bias": np.zeros(8, np.float32)}),
            r"misshapen: dec.head_cmd.bias float32\[8\] instead of float32\[9\]$",
        ),
        (
            lambda t: t.update({"dec.head_cmd.bias": np.zeros(9, np.float16)}),
            r"dec.head_cmd.bias float16\[9\] instead of float32\[9\]",
        ),
        (
            lambda t: [t.pop("enc.vec.encoder.0.mha.in_proj_weight"), t.update({"dec.more": np.zeros(1, np.float32)})],
            r"missing: .*; unexpected: .*dec\.more",
        ),
    ],
)
def test_wrong_tensors_are_listed_and_nothing_is_left(tensors, tmp_path, damage, words):
    damaged = dict(tensors)
    damage(damaged)
    save_file(damaged, tmp_path / "damaged.safetensors")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=words) as error:
        import_checkpoint(
            "glyph_vae",
            tmp_path / "damaged.safetensors",
            tmp_path / "run",
            tiny_config("glyph_vae"),
            {"heads": 2},
            report=lambda line: None,
        )
    assert "damaged.safetensors" in str(error.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "file", "out", "hidden", "words"),
    [
        ("glyphs", "weights.npz", "run", {"heads": 2}, "SYSTEM = 'glyphs' is unknown: did you mean 'glyph_vae'"),
        ("glyph_vae", "none.npz", "run", {"heads": 2}, "none.npz': there is no such file"),
        ("glyph_vae", "notes.txt", "run", {"heads": 2}, "unknown ending '.txt': it must be .pt, .npz, .safetensors"),
        ("glyph_vae", "torn.npz", "run", {"heads": 2}, "torn.npz cannot be read as arrays"),
        ("glyph_vae", "torn.safetensors", "run", {"heads": 2}, "torn.safetensors cannot be read as safetensors"),
        ("glyph_vae", "weights.npz", "run", {"heads": None}, "no tensor shows it: give --heads"),
        ("glyph_vae", "weights.npz", "run", {"heads": 3}, "config.model.heads = 3: must divide config.model.embed"),
        ("glyph_vae", "weights.npz", "notes.txt", {"heads": 2}, "notes.txt' exists: name a folder that does not"),
        ("glyph_vae", "weights.npz", "notes.txt/run", {"heads": 2}, "notes.txt/run.* cannot be written"),
    ],
)
def test_mistakes_of_an_import_are_named(npz, tmp_path, name, file, out, hidden, words):
    (tmp_path / "weights.npz").symlink_to(npz)
    for other in ("notes.txt", "torn.npz", "torn.safetensors"):
        (tmp_path / other).write_text("notes")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=words):
        config = tiny_config("glyph_vae")
        import_checkpoint(name, tmp_path / file, tmp_path / out, config, hidden, report=lambda line: None)
    assert contents(tmp_path) == before


def test_mistakes_of_an_export_are_named(converted, tmp_path):
    run, _ = converted
    with pytest.raises(UserError, match=r"become a \.safetensors: name one"):
        export_weights("glyph_vae", run, tmp_path / "weights.npz")
    with pytest.raises(UserError, match="cannot be written"):
        export_weights("glyph_vae", run, tmp_path / "none" / "weights.safetensors")
    with pytest.raises(UserError, match="--weights = 'slow' is unknown: choose one of average, raw"):
        export_weights("glyph_vae", run, tmp_path / "weights.safetensors", "slow")
    assert contents(tmp_path) == {}
