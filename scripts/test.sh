#!/usr/bin/env bash
# Sets up .venv and runs the tests.
#
#   bash scripts/test.sh [--all] [--golden=DIR] [arguments of pytest]
#
#   --all          the slow tests too
#   --golden=DIR   compare with golden values in DIR as well (tests/parity)
#
# Works from any folder. Paths of tests among the arguments are read at the root of the repository
# (tests/parity), DIR where you stand.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

ensure_environment test

cores="$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)"
workers=$((cores < 8 ? cores : 8))
if [ "$workers" -eq 1 ]; then
    workers=0 # in the main process: a single worker would only cost its start
fi

arguments=(-n "$workers")
for argument in "$@"; do
    case "$argument" in
        --all) arguments+=(--slow) ;;
        --golden=/*) arguments+=("$argument") ;;
        --golden=*) arguments+=("--golden=$PWD/${argument#--golden=}") ;;
        *) arguments+=("$argument") ;;
    esac
done

export JAX_PLATFORMS=cpu
export TF_CPP_MIN_LOG_LEVEL=2
# Most of the time of small tests is compilation; the second run finds it done.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$venv/jax_cache}"
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
# One worker a core already fills the machine. XLA keeps two threads, so that a computation that waits for
# another one cannot block it; linear algebra on the host and torch keep one.
export PJRT_NPROC=2 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

cd -- "$root"
say "python -m pytest ${arguments[*]}"
exec "$python" -m pytest "${arguments[@]}"
