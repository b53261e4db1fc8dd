#!/usr/bin/env bash
# Installs what is missing, builds the release, runs the benchmarks and writes docs/performance.md.
#   scripts/bench.sh [--quick] [--runs N] [--only guard,var,bus,http,ws,hybrid] [--out FILE]
# --quick: one short run of each, some 4 minutes. Peers that cannot be installed are named as missing, not made up.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/install.sh
# shellcheck disable=SC2086
keel_install $keel_packages python3 git
for peer in nginx-light libh2o-evloop-dev libssl-dev python3-numpy libopenblas0-serial; do
  keel_install "$peer" || echo "keel: going on without $peer" >&2
done
keel_build release
KEEL_BIN=$PWD/build/release/bin exec python3 tests/bench/report.py "$@"
