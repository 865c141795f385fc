#!/usr/bin/env bash
# Everything that must hold before a change lands: lint, format, types, tests and doctests.
#
#   scripts/test.sh [PYTEST ARGUMENT...]
#
#   scripts/test.sh                          all but the slow tests
#   scripts/test.sh -m "not torch"           the slow ones too
#   scripts/test.sh tests/lifting -k scan    some of them
#
# Makes the environment of quickstart.sh with the test dependencies added, or reuses it.
# Tests that need real files look under LORA_JAX_DATA and say so when they skip.
set -euo pipefail

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

show_help_if_asked "$@"
ensure_environment test
ensure_minilm
cd "$root"
"$venv_python" -m ruff check
"$venv_python" -m ruff format --check
"$venv_python" -m mypy
# A later -m or -n among the arguments wins over these.
exec "$venv_python" -m pytest -n 2 -m "not slow and not torch" "$@"
