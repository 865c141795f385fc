#!/usr/bin/env bash
# Every study on real weights and real text, one after another, the most telling first.
#
#   export LORA_JAX_DATA=DIR
#   scripts/run_studies.sh OUTDIR [STUDY...]
#
# DIR holds glue/, e2e_nlg/, cocohd/ and stories260k/; the environment of scripts/quickstart.sh is
# made if it is not there. A study whose results.json is there is skipped, and one that was killed
# goes on from its finished runs: the same command again does only what is left. One that fails does
# not stop the others. At the end stand the findings of all with the seconds that each took, which
# are kept in OUTDIR/seconds.tsv too, the page of each, and which are not finished.
#
# STUDY: some of the names below, such as rank/sst2; all of them by default.
#
# Runs on different tasks are not to be compared. The one comparison that is made here is of the
# same runs on weights that are pretrained and on new ones. Runs of your own on one task are:
# python -m experiments.compare DIR DIR ...
#
# Environment: PYTHON, LORA_JAX_VENV, LORA_JAX_MINILM (see scripts/environment.sh).
set -euo pipefail

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

# Name of the study, which is its directory below OUTDIR; its config; more flags. The rates that
# target_modules chooses for one task serve for the others too. Of `compare`: the runs.
rates=--config.rates_of=OUTDIR/target_modules/relevancy
ours=--config.model.path=OUTDIR/pretrain/model
studies="
target_modules/e2e         target_modules.py:e2e
target_modules/relevancy   target_modules.py:relevancy
lora_vs_full/e2e_nlg       lora_vs_full.py:e2e_nlg
learning_rate/e2e_nlg      learning_rate.py:e2e_nlg
rank/e2e_nlg               rank.py:e2e_nlg
weight_types/e2e_nlg       weight_types.py:e2e_nlg
lora_vs_full/sst2          lora_vs_full.py:sst2
target_modules/sst2        target_modules.py:sst2         $rates
subspace                   subspace.py
task_switching             task_switching.py
rank/sst2                  rank.py:sst2
pretrain                   pretrain.py
lora_vs_full/own           lora_vs_full.py:own            $ours
lora_vs_full/fresh         lora_vs_full.py:own            $ours --config.model.fresh=True
compare/bases              OUTDIR/lora_vs_full/own        OUTDIR/lora_vs_full/fresh
target_modules/cola        target_modules.py:cola         $rates
target_modules/rte         target_modules.py:rte          $rates
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

# run NAME CONFIG [FLAG...]: into OUTDIR/NAME.
run() {
  local name=$1 config=${2//OUTDIR/$out}
  shift 2
  set -- "${@//OUTDIR/$out}"
  if [ "${name%%/*}" = compare ]; then
    "$venv_python" -m experiments.compare "$config" "$@" --workdir="$out/$name"
  else
    "$venv_python" -m "experiments.${name%%/*}" \
      --config="configs/$config" --workdir="$out/$name" "$@"
  fi
}

failed=()
finished=()
while read -r -a words; do
  [ ${#words[@]} -gt 0 ] || continue
  name=${words[0]}
  if [ $# -gt 0 ] && ! printf '%s\n' "$@" | grep -qx "$name"; then continue; fi
  if [ -s "$out/$name/results.json" ]; then
    echo "$name: done before"
    finished+=("$name")
    continue
  fi
  mkdir -p "$(dirname "$out/$name")"
  started=$SECONDS
  echo "== $name"
  outcome="failed"
  if run "$name" "${words[@]:1}" </dev/null; then
    # One that was told to stop ends in order, but has no results yet.
    outcome="stopped"
    if [ -s "$out/$name/results.json" ]; then outcome="done"; fi
  fi
  if [ "$outcome" = "done" ]; then finished+=("$name"); else failed+=("$name ($outcome)"); fi
  printf '%s\t%s\t%s\n' "$name" "$((SECONDS - started))" "$outcome" >>"$out/seconds.tsv"
  echo "$name: $outcome after $((SECONDS - started)) s"
done <<<"$studies"

# ---- Each study's name, the seconds of all starts that it took, and what it found
if [ ${#finished[@]} -gt 0 ]; then
  "$venv_python" - "$out" "${finished[@]}" <<'PYTHON'
import collections, json, pathlib, sys

out, names = pathlib.Path(sys.argv[1]), sys.argv[2:]
seconds = collections.Counter()
if (out / "seconds.tsv").exists():
    for line in (out / "seconds.tsv").read_text().splitlines():
        name, took, _ = line.split("\t")
        seconds[name] += int(took)
for name in names:
    found = json.loads((out / name / "results.json").read_text()).get("finding", "")
    took = f"{seconds[name]:,} s" if name in seconds else "time not known"
    print(f"\n{name} ({took}): {found}\n  {out / name / 'report.html'}")
total = sum(seconds[name] for name in names)
print(f"\n{len(names)} studies are finished in {out}: {total:,} s in all")
PYTHON
fi
if [ ${#failed[@]} -gt 0 ]; then
  echo "not finished: ${failed[*]}; the same command goes on with them" >&2
  exit 1
fi
