#!/usr/bin/env bash
# All benchmarks, or some, on a machine that does nothing else; each writes its page of docs/measured.
#
#   scripts/bench_all.sh [NAME...]
#
#   scripts/bench_all.sh                    all of them (about an hour and a half on two cores)
#   scripts/bench_all.sh machine training   some of the names below
#
# A page holds the command, and what it printed. `docs/performance.md` says how to read them. PEFT's
# part needs torch, transformers and peft in the environment; without them it is left out. What else
# is compared with may be in environments of its own: LORA_JAX_PEERS_PYTHON and LORA_JAX_PEFT_PYTHON
# name their Python, and bench_peers.py and bench_quantized.py say how to make them.
# Input data is looked for under LORA_JAX_DATA.
set -euo pipefail

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

benchmarks="
machine       What the machine can do        bench_machine.py
lift          What lifting costs             bench_lift.py --layers 12 --rounds 7
methods       What each method costs         bench_methods.py --rounds 4
models        Compiling and generating       bench_models.py --batch 1 --prompt 128 --new 64 --rounds 3
training      Training beside PEFT           bench_training.py --rounds 3
peers         Training beside JAX peers      bench_peers.py --rounds 3
quantized     A quantised base               bench_quantized.py --layers 4 --dim 512 --vocabulary 8192 --rounds 3
sweep         Joint sweeps                   bench_sweep.py --steps 300 --devices 2
serving       Routed decoding                bench_serving.py --rounds 3
server        The server                     bench_server.py --layers 4 --dim 384 --rounds 2
data          The input pipeline             bench_data.py
"

show_help_if_asked "$@"
for wanted in "$@"; do
  grep -q "^$wanted " <<<"$benchmarks" || fail "there is no benchmark $wanted;" \
    "known:$(awk 'NF {printf " %s", $1}' <<<"$benchmarks")"
done
ensure_environment ""
cd "$root"
mkdir -p docs/measured
while IFS= read -r line; do
  [ -n "$line" ] || continue
  name=${line%% *}
  if [ $# -gt 0 ] && ! printf '%s\n' "$@" | grep -qx "$name"; then continue; fi
  title=$(sed -E 's/^[a-z]+ +(.*[^ ]) +bench_.*/\1/' <<<"$line")
  command=python\ scripts/$(sed -E 's/.* (bench_)/\1/' <<<"$line")
  say "== $command"
  found=$(mktemp)
  # shellcheck disable=SC2086
  if "$venv_python" ${command#python } >"$found"; then
    printf '# %s\n\n    %s\n\n%s\n' "$title" "$command" "$(cat "$found")" >"docs/measured/$name.md"
  else
    say "$name failed; docs/measured/$name.md is as it was"
    failed=1
  fi
  rm -f "$found"
done <<<"$benchmarks"
exit "${failed:-0}"
