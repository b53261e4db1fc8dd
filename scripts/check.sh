#!/usr/bin/env bash
# Rules of the sources that a compiler does not check: who may include whom, banned functions, one reader of
# ENABLE_HYBRID, no path of a machine. Prints each offence; exit 1 when there is one.
set -uo pipefail
cd "$(dirname "$0")/.."
bad=0
offence() { # TEXT, then the lines on standard input
  local lines
  lines=$(cat)
  [[ -z $lines ]] && return
  printf 'check: %s\n%s\n' "$1" "$lines" >&2
  bad=1
}

sources=$(find common engines include -name '*.[ch]')
# shellcheck disable=SC2086
{
  grep -nE '\b(strcpy|strcat|sprintf|strtok|atoi|alloca|system)\(' $sources | offence "banned function"
  grep -nE '^\s*//|[;{})] *// ' $sources | offence "// comment"
  grep -lE 'getenv\("ENABLE_HYBRID"\)' $sources | grep -v '^common/run/main.c$' | offence "only main.c reads ENABLE_HYBRID"
  grep -lE '#include [<"](cjson/cJSON|cJSON)\.h' $sources | offence "json.c reads JSON; cJSON is the tests'"
  grep -lE '#include <hiredis' $sources | grep -vE '^common/(run/(link|tls|stream_reply|link_priv)\.[ch]|cli/)' | offence "hiredis is link.c's"
  grep -lE '#include <microhttpd' $sources | grep -v '^common/run/http.c$' | offence "libmicrohttpd is http.c's"
  grep -lE '#include <curl' $sources | grep -vE '^common/(run/peer|cli/http)\.c$' | offence "libcurl is peer.c's"
  grep -nE '#include <(uv|sys/socket|time|unistd|stdio|pthread|fcntl)\.h>' $(find common/base include -name '*.[ch]') |
    grep -vE '^common/base/((status|arena|num|json|text|record|redis_url)\.c:[0-9]+:#include <stdio.h>|json\.c:[0-9]+:#include <pthread.h>)' | offence "base has no sockets, threads, files or clocks"
  for dir in engines/*/; do
    name=$(basename "$dir")
    grep -nE '#include "(\.\./|engines/)' "$dir"*.[ch] | offence "$name includes another engine"
  done
  domain=$(sed -n 's/^keel_engine(\([a-z]*\) DOMAIN \(.*\) OPS.*/\1 \2/p' engines/CMakeLists.txt |
    while read -r engine files; do for f in $files; do echo "engines/$engine/$f"; done; done; ls common/quant/*.c)
  for f in $domain; do
    grep -HnE '#include <(stdio|time|uv|sqlite3|microhttpd)\.h>|#include "keel/(call|engine|json|record|bus|store|peer)\.h"|\b(malloc|calloc|getenv|rand|time)\(' \
      "$f" | offence "domain code knows only status, arena, stats, rng and num"
  done
}
git ls-files -z 2>/dev/null | xargs -0 -r grep -nIE '/home/[a-z]+/|/root/' -- 2>/dev/null | grep -v '^scripts/check.sh:' | offence "path of a machine"
((bad == 0)) && echo "check: sources follow the rules"
exit $bad
