#!/usr/bin/env bash
# Every study on real weights and real text, the most telling first.
#
#   export LORA_JAX_DATA=DIR
#   scripts/run_studies.sh OUTDIR [STUDY...] [--jobs N]
#
# DIR holds glue/, e2e_nlg/, cocohd/ and stories260k/; the environment of scripts/quickstart.sh is
# made if it is not there. A study whose results.json is there is skipped, and one that was killed
# goes on from its finished runs: the same command again does only what is left. One that fails does
# not stop the others. At the end stand the findings of all with the seconds that each took, which
# are kept in OUTDIR/seconds.tsv too, the page of each, and which are not finished.
#
# STUDY: some of the names in scripts/run_studies.py, such as rank/sst2; all of them by default.
#
# --jobs N: studies beside each other, each on its share of the cores; by default a core each, up to
# four, and one at a time on an accelerator. While one measures latency, nothing runs beside it.
#
# Runs on different tasks are not to be compared. The one comparison that is made here is of the
# same runs on weights that are pretrained and on new ones. Runs of your own on one task are:
# python -m experiments.compare DIR DIR ...
#
# Environment: PYTHON, LORA_JAX_VENV, LORA_JAX_MINILM (see scripts/environment.sh).
set -euo pipefail

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

show_help_if_asked "$@"
: "${LORA_JAX_DATA:?name the directory of the data: export LORA_JAX_DATA=DIR}"
LORA_JAX_DATA=$(realpath "$LORA_JAX_DATA")
export LORA_JAX_DATA

ensure_environment ""
ensure_minilm
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$root/.jax_cache}
exec "$venv_python" "$root/scripts/run_studies.py" "$@"
