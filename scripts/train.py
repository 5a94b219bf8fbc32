"""Trains a system, or continues its run.

python scripts/train.py --config=configs/glyph_vae.py:high_quality
python scripts/train.py --config=configs/glyph_vae.py:small --config.optim.lr=3e-4 --workdir=runs/mine
python scripts/train.py --config=configs/glyph_vae.py --list_presets

All devices that the process sees take part. Several processes, on one machine or more, train together if each is
started with the same command and its own number:

python scripts/train.py --config=configs/glyph_vae.py --coordinator=10.0.0.1:1234 --processes=2 --process=0
python scripts/train.py --config=configs/glyph_vae.py --coordinator=10.0.0.1:1234 --processes=2 --process=1

Where several are on one machine with GPUs, CUDA_VISIBLE_DEVICES gives each its own. They need one run folder that all
of them see; process 0, at whose address they meet, writes the logs. If one dies, the others are ended within twice
--heartbeat_s, and the same commands go on from the newest checkpoint.
"""

from absl import flags

from jaxvae import cli
from jaxvae.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", "", "Run folder; default runs/<config>-<preset>.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "Several processes: host:port at which process 0 listens.")
_PROCESSES = flags.DEFINE_integer("processes", None, "Several processes: how many they are.")
_PROCESS = flags.DEFINE_integer("process", None, "Several processes: the number of this one, from 0.")
_HEARTBEAT_S = flags.DEFINE_integer(
    "heartbeat_s", None, "Seconds without a sign of life after which one counts as dead."
)
_LIST_PRESETS = flags.DEFINE_bool("list_presets", False, "List the presets of --config and stop.")


flags.adopt_module_key_flags(cli)  # --help shows --config too


def main() -> None:
    config = cli.config()
    if _LIST_PRESETS.value:
        for name, preset in cli.presets(cli.config_path()).items():
            print(f"{name:16} {preset.about}")
        return
    join()
    # Imported late: a wrong flag is answered at once and without starting a device.
    from jaxvae.train.loop import train

    train(config, _WORKDIR.value or cli.default_workdir(config), cli.command_line())


def join() -> None:
    """Joins the other processes if the flags speak of any.

    Raises:
      UserError: if one of the flags is missing or cannot work.
    """
    from jaxvae.train.distributed import HEARTBEAT_S, initialize

    group = (_COORDINATOR, _PROCESSES, _PROCESS)
    missing = [f"--{flag.name}" for flag in group if flag.value is None]
    if len(missing) < len(group):
        if missing:
            raise UserError(
                f"{' and '.join(missing)} missing: several processes need --coordinator, --processes, --process"
            )
        initialize(*(flag.value for flag in group), HEARTBEAT_S if _HEARTBEAT_S.value is None else _HEARTBEAT_S.value)
    elif _HEARTBEAT_S.value is not None:
        raise UserError(f"--heartbeat_s={_HEARTBEAT_S.value} is for several processes: give --coordinator as well")


if __name__ == "__main__":
    cli.run(main)
