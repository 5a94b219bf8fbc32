"""Trains a system, or continues its run.

python scripts/train.py --config=configs/glyph_vae.py:high_quality
python scripts/train.py --config=configs/glyph_vae.py:small --config.optim.lr=3e-4 --workdir=runs/mine
python scripts/train.py --config=configs/glyph_vae.py --list_presets
"""

from absl import flags

from jaxvae import cli

_WORKDIR = flags.DEFINE_string("workdir", "", "Run folder; default runs/<config>-<preset>.")
_LIST_PRESETS = flags.DEFINE_bool("list_presets", False, "List the presets of --config and stop.")


flags.adopt_module_key_flags(cli)  # --help shows --config too


def main() -> None:
    config = cli.config()
    if _LIST_PRESETS.value:
        for name, preset in cli.presets(cli.config_path()).items():
            print(f"{name:16} {preset.about}")
        return
    # Imported late: a wrong flag is answered at once and without starting a device.
    from jaxvae.train.loop import train

    train(config, _WORKDIR.value or cli.default_workdir(config), cli.command_line())


if __name__ == "__main__":
    cli.run(main)
