#!/usr/bin/env bash
# Installs what is missing, checks the sources, builds (release; address and undefined sanitizers), runs every test and
# counts them. KEEL_SHARED names the folder of reference data (default ../shared).
set -uo pipefail
cd "$(dirname "$0")/.."
. scripts/install.sh
# shellcheck disable=SC2086
keel_install $keel_packages python3 curl || exit 1
# Also for the npm client that talks to the websocket engine.
keel_install_browser || echo "keel: the browser test will be skipped" >&2
export KEEL_SHARED=${KEEL_SHARED:-$(cd .. && pwd)/shared}
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1
started=$SECONDS
passed=0 failed=0 skipped=0

count() { # NAME LOG: adds up what ctest says of a run
  local line total bad skip
  line=$(grep -E '^[0-9]+% tests passed, [0-9]+ tests failed out of [0-9]+' "$2" | tail -n 1)
  if [[ -z $line ]]; then
    echo "keel: $1 ran no test" >&2
    failed=$((failed + 1))
    return
  fi
  bad=$(sed -E 's/.* ([0-9]+) tests failed.*/\1/' <<<"$line")
  total=$(sed -E 's/.* out of ([0-9]+).*/\1/' <<<"$line")
  skip=$(grep -cE '\*\*\*Skipped' "$2")
  passed=$((passed + total - bad - skip)) failed=$((failed + bad)) skipped=$((skipped + skip))
}

run() { # PRESET ARGS...: ctest, shown as it goes
  local log
  log=$(mktemp)
  ctest --preset "$1" "${@:2}" 2>&1 | tee "$log" | grep -vE '^(Test project|    Start )'
  count "$1" "$log"
  rm -f "$log"
}

if scripts/check.sh; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
for preset in release asan; do
  echo "== building $preset ($((SECONDS - started)) s)"
  keel_build "$preset" || exit 1
done
echo "== unit tests and fuzz corpora, release and sanitizers ($((SECONDS - started)) s)"
run release -j 2 -L unit
run asan -j 2 -L unit
echo "== integration, sanitizers ($((SECONDS - started)) s)"
run asan -L sanitized
echo "== integration, release ($((SECONDS - started)) s)"
run release -j 2 -L integration
echo "== done in $((SECONDS - started)) s"
if [[ -n ${CI:-} && $skipped -gt 0 ]]; then
  echo "keel: in CI a skipped test is a failure" >&2
  failed=$((failed + skipped)) skipped=0
fi
echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0))
