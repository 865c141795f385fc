#!/usr/bin/env bash
# Which modules should be adapted? The main study on real weights and real text, from nothing.
#
#   scripts/quickstart.sh [FLAG...]
#
# Needs Python 3.11 or newer and, the first time, the network. Makes .venv with pinned CPU
# dependencies (a second run reuses it), fetches the pretrained encoder all-MiniLM-L6-v2, trains
# LoRA on several sets of target modules over one frozen base, and writes a table to the terminal
# and runs/quickstart/report.html.
#
# Flags go to the experiment:
#   --dry_run                    print the plan and stop
#   --workdir=DIR                where to write (runs/quickstart)
#   --config.FIELD=VALUE         override any field of configs/quickstart.py
#
# Environment: PYTHON, LORA_JAX_VENV, LORA_JAX_MINILM (see scripts/environment.sh).
set -euo pipefail

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

show_help_if_asked "$@"
ensure_environment ""
ensure_minilm
cd "$root"
# The environment holds JAX for CPUs only; without this JAX looks for others and says so.
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
# Large arrays in huge pages, where glibc knows them: without, each step faults its buffers in anew.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
# Compiled programs are kept, so a second run starts sooner.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$root/.jax_cache}
exec "$venv_python" -m experiments.target_modules \
  --config=configs/quickstart.py --workdir=runs/quickstart "$@"
