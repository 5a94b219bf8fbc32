"""Converts a checkpoint of an original in PyTorch into a run, or the weights of a run back.

python scripts/convert.py glyph_vae runs/high_quality/ckpt/epoch600.pt runs/converted
python scripts/convert.py glyph_vae weights.npz runs/converted --heads=16 \\
    --config=configs/glyph_vae.py:high_quality --config.data.path=msyh.npz
python scripts/convert.py glyph_vae runs/converted weights.safetensors

IN is a file (.pt, .npz, .safetensors) and OUT the folder of a new run; or IN is a run folder, or one of its
checkpoints/<step>, and OUT a .safetensors under the original's names. The sizes of the model come from the tensors;
all else of the new run (data, loss, training) comes from --config, by default configs/SYSTEM.py.
"""

from pathlib import Path

from absl import flags

from jaxvae import cli

_HEADS = flags.DEFINE_integer("heads", None, "Attention heads, if neither IN nor a training_config.json says them.")
_WEIGHTS = flags.DEFINE_string("weights", "", "Of a run: raw, or the name of an average; default train.eval_weights.")
_STEP = flags.DEFINE_integer("step", None, "Of a run: step of the checkpoint; default the newest.")

flags.adopt_module_key_flags(cli)  # --help shows --config too


def main(name: str, source: str, out: str) -> None:
    from jaxvae.convert.systems import system
    from jaxvae.use.conversion import export_weights, import_checkpoint

    system(name)
    if Path(source).expanduser().is_dir():
        cli.no_config("IN/config.json")
        written = export_weights(name, source, out, _WEIGHTS.value, _STEP.value)
        print("{tensors} tensors, {weights} weights of step {step}".format(**written), f"written to {out}")
        return
    default = Path(__file__).parents[1] / "configs" / f"{name}.py"
    config = cli.config(default=default)
    print(f"written to {import_checkpoint(name, source, out, config, {'heads': _HEADS.value}, cli.command_line())}")


if __name__ == "__main__":
    cli.run(main, arguments=["SYSTEM", "IN", "OUT"], interrupted="stopped")
