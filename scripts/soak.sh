#!/usr/bin/env bash
# The long forms of what scripts/test.sh runs bounded: the fault run over nine engines, the breaker's model test and the
# bus' delivery test, thread sanitizer, fuzzers. Ends with a line `soak ok` or names what failed.
#   scripts/soak.sh [--minutes N (30)] [--seed N] [--only faults,models,tsan,fuzz]
# N minutes go to the fault run; each fuzzer gets N * 6 s.
set -uo pipefail
cd "$(dirname "$0")/.."
. scripts/install.sh
minutes=30 seed=$(date +%s) only=faults,models,tsan,fuzz
while (($# > 0)); do
  case $1 in
    --minutes) minutes=$2 && shift ;;
    --seed) seed=$2 && shift ;;
    --only) only=$2 && shift ;;
    [0-9]*) minutes=$1 ;;
    *) sed -n '2,6s/^# //p' "$0" && exit 2 ;;
  esac
  shift
done
# shellcheck disable=SC2086
keel_install $keel_packages python3 clang || exit 1
export KEEL_SHARED=${KEEL_SHARED:-$(cd .. && pwd)/shared}
failed=()

part() { # NAME COMMAND...
  echo "== ${*:2} ($((SECONDS / 60)) min)"
  "${@:2}" || failed+=("$1")
}

wanted() { [[ ,$only, == *,$1,* ]]; }

fuzz() { # SECONDS: every fuzzer, into a corpus that is thrown away
  local seconds=$1 corpus program name bad=0
  corpus=$(mktemp -d)
  for program in build/fuzz/bin/fuzz_*; do
    name=${program##*/fuzz_}
    mkdir -p "$corpus/$name"
    "$program" -max_total_time="$seconds" -print_final_stats=1 -artifact_prefix="$corpus/$name-" \
      "$corpus/$name" "tests/fuzz/corpus_$name" >"$corpus/$name.log" 2>&1 || {
      bad=1
      tail -n 30 "$corpus/$name.log"
      ls "$corpus/$name"-* 2>/dev/null
    }
    echo "fuzz_$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$corpus/$name.log") inputs in $seconds s"
  done
  ((bad == 0)) && rm -rf "$corpus"
  return $bad
}

if wanted faults; then
  keel_build release || exit 1
  part faults python3 tests/soak/soak.py --minutes "$minutes" --seed "$seed"
fi
if wanted models; then
  keel_build release || exit 1
  times=$(awk -v m="$minutes" 'BEGIN { printf "%d", m * 3 < 1 ? 1 : m * 3 }')
  seconds=$(awk -v m="$minutes" 'BEGIN { printf "%d", m * 20 < 1 ? 1 : m * 20 }')
  part models env KEEL_SOAK="$times" KEEL_SOAK_S="$seconds" ctest --preset release --timeout $((seconds * 3 + 1800)) \
    -R 'breaker|bus|deliver'
fi
if wanted tsan; then
  keel_build tsan || exit 1
  part tsan env CK_TIMEOUT_MULTIPLIER=30 TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1 ctest --preset tsan -j 2 --timeout 1800 -L 'unit|sanitized'
fi
if wanted fuzz; then
  CI='' keel_build fuzz || exit 1
  part fuzz fuzz "$(awk -v m="$minutes" 'BEGIN { printf "%d", m * 6 < 5 ? 5 : m * 6 }')"
fi
if ((${#failed[@]} > 0)); then
  echo "soak failed: ${failed[*]} (seed $seed)"
  exit 1
fi
echo "soak ok (seed $seed)"
