#!/usr/bin/env bash
# Every study on real weights and real text, one after another.
#
#   export LORA_JAX_DATA=DIR
#   scripts/run_studies.sh OUTDIR [STUDY...]
#
# DIR holds glue/, e2e_nlg/, cocohd/ and stories260k/; the environment of scripts/quickstart.sh is
# made if it is not there. A study whose results.json is there is skipped, and one that was killed
# goes on from its finished runs: the same command again does only what is left. One that fails does
# not stop the others. At the end stand the findings of all, the page of each, and which failed.
#
# STUDY: some of the names below, such as rank/sst2; all of them by default.
#
# Runs on different tasks are not to be compared, so no comparison is made here. Runs of your own on
# one task are: python -m experiments.compare DIR DIR ...
#
# Environment: PYTHON, LORA_JAX_VENV, LORA_JAX_MINILM (see scripts/environment.sh).
set -euo pipefail

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

# Name of the study, which is its directory below OUTDIR; its config; more flags. The rates that
# target_modules chooses for one task serve for the others too.
rates=--config.rates_of=OUTDIR/target_modules/relevancy
studies="
pretrain                   pretrain.py
target_modules/relevancy   target_modules.py:relevancy
target_modules/e2e         target_modules.py:e2e
target_modules/sst2        target_modules.py:sst2         $rates
target_modules/cola        target_modules.py:cola         $rates
target_modules/rte         target_modules.py:rte          $rates
rank/e2e_nlg               rank.py:e2e_nlg
rank/sst2                  rank.py:sst2
weight_types/e2e_nlg       weight_types.py:e2e_nlg
learning_rate/e2e_nlg      learning_rate.py:e2e_nlg
lora_vs_full/e2e_nlg       lora_vs_full.py:e2e_nlg
lora_vs_full/sst2          lora_vs_full.py:sst2
subspace                   subspace.py
task_switching             task_switching.py
"

show_help_if_asked "$@"
if [ $# -lt 1 ]; then
  echo "error: name a directory for the results: scripts/run_studies.sh OUTDIR [STUDY...]" >&2
  exit 2
fi
out=$(realpath -m "$1")
shift
for wanted in "$@"; do
  if ! grep -q "^$wanted " <<<"$studies"; then
    echo "error: there is no study $wanted; known:$(awk 'NF {printf " %s", $1}' <<<"$studies")" >&2
    exit 2
  fi
done
: "${LORA_JAX_DATA:?name the directory of the data: export LORA_JAX_DATA=DIR}"
LORA_JAX_DATA=$(realpath "$LORA_JAX_DATA")
export LORA_JAX_DATA

ensure_environment ""
ensure_minilm
cd "$root"
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$root/.jax_cache}

failed=()
finished=()
while read -r name config flags; do
  [ -n "$name" ] || continue
  if [ $# -gt 0 ] && ! printf '%s\n' "$@" | grep -qx "$name"; then continue; fi
  directory=$out/$name
  if [ -s "$directory/results.json" ]; then
    echo "$name: done before"
    finished+=("$directory")
    continue
  fi
  mkdir -p "$(dirname "$directory")"
  started=$SECONDS
  echo "== $name"
  if "$venv_python" -m "experiments.${name%%/*}" \
    --config="configs/$config" --workdir="$directory" \
    ${flags:+"${flags/OUTDIR/$out}"} </dev/null; then
    finished+=("$directory")
    echo "$name: $((SECONDS - started)) s"
  else
    failed+=("$name")
    echo "$name: failed after $((SECONDS - started)) s" >&2
  fi
done <<<"$studies"

for directory in "${finished[@]}"; do
  "$venv_python" - "$directory" "${directory#"$out"/}" <<'PYTHON'
import json, pathlib, sys

directory, name = pathlib.Path(sys.argv[1]), sys.argv[2]
finding = json.loads((directory / "results.json").read_text()).get("finding", "")
print(f"\n{name}: {finding}\n  {directory / 'report.html'}")
PYTHON
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}; the same command tries them again" >&2
  exit 1
fi
echo "all studies are in $out; $SECONDS s"
