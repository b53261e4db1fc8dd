#!/usr/bin/env bash
# Installs what is missing, builds, and runs the main job: a market session from data to ledger.
# Options go to `keel demo`; see scripts/run.sh --help.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
"$top/scripts/build.sh"
exec "$top/build/release/bin/keel" demo "$@"
