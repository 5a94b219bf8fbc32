#!/usr/bin/env bash
# From nothing to a trained glyph VAE: sets up .venv and trains on the fonts that come with matplotlib.
#
#   bash scripts/quickstart.sh [options of scripts/train.py]     e.g. --workdir=DIR, --config.seed=1
#
# Works from any folder; the run folder and relative paths in the options belong to the folder you stand in.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

ensure_environment

if nvidia-smi -L >/dev/null 2>&1 && ! compgen -G "$venv/lib/python3*/site-packages/jax_cuda1*_plugin" >/dev/null; then
    say "an NVIDIA GPU is here, but jax is installed for the CPU only; for the GPU, in $root:"
    say "  .venv/bin/python -m pip install -e '.[cuda13]'     (or cuda12, for drivers before 580)"
fi

# On Linux, huge pages for large arrays: on two cores a step takes a third less. The variable means nothing elsewhere.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"

# Short paths where they do, because the run folder keeps the command as it was given.
here="$root/"
if [ "$PWD" -ef "$root" ]; then here=""; fi
say "training: scripts/train.py --config=configs/glyph_vae.py:quickstart $*"
exec "$python" "${here}scripts/train.py" "--config=${here}configs/glyph_vae.py:quickstart" "$@"
