#!/usr/bin/env bash
# Builds the images and drives the system in containers: one engine alone, the nine with a session, a stop under load,
# plain mode; and tests of what Debian 13's libraries do otherwise (TLS to Redis, libmicrohttpd 1.0). Takes whichever
# engine `docker` reaches (DOCKER_HOST); uses a project, volumes and free ports of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

need() { # SENTENCE COMMAND...
  "${@:2}" >/dev/null 2>&1 || { echo "test-containers: $1" >&2; exit 1; }
}
for tool in docker curl python3; do need "$tool is not installed" command -v "$tool"; done
need "docker has no compose plugin (v2.20 or later)" docker compose version
need "no container engine answers; start one or set DOCKER_HOST" docker version --format '{{.Server.Version}}'

declare -A port=([analytics]=8100 [risk]=8200 [factor]=8300 [ml]=8400 [features]=8500 [websocket]=8600 [strategy]=8700
  [marketdata]=8800 [portfolio]=8900)
export COMPOSE_PROJECT_NAME=keel-test-$$ COMPOSE_ANSI=never REDIS_PASSWORD=t$RANDOM$RANDOM
unset ENABLE_HYBRID ALLOW_UNAUTHENTICATED KEEL_MODE LOG_LEVEL READ_TOKEN TRADE_TOKEN ADMIN_TOKEN ENGINE_TOKEN
for e in "${!port[@]}"; do export "${e^^}_PORT=0"; done # any free one
compose() { docker compose --env-file /dev/null --progress quiet "$@"; }

work=$(mktemp -d)
passed=0
finish() {
  local code=$?
  if ((code != 0)); then
    compose ps -a >&2 || true
    compose logs --no-log-prefix --tail 5 >&2 || true
  fi
  compose --profile demo down -v --remove-orphans --rmi local -t 5 >/dev/null 2>&1 || true
  docker rmi "$COMPOSE_PROJECT_NAME-tls" >/dev/null 2>&1 || true
  rm -rf "$work"
  if ((code == 0)); then
    echo "containers: $passed passed, 0 failed in $SECONDS s"
  else
    echo "containers: $passed passed, 1 failed in $SECONDS s"
  fi
}
trap finish EXIT

expect() { # WHAT COMMAND...: it must succeed
  "${@:2}" || { echo "  FAIL $1" >&2; exit 1; }
  passed=$((passed + 1))
  echo "  ok   $1 ($SECONDS s)"
}
fails() { ! "$@" >/dev/null 2>&1; }
url() { echo "http://$(compose port "$1-engine" "${port[$1]}")"; }
get() { curl -fsS --retry 20 --retry-delay 1 --retry-all-errors "$(url "$1")$2"; }
answers() { # CODE ENGINE PATH CURL-OPTIONS...
  local got
  got=$(curl -sS -o /dev/null -w '%{http_code}' "${@:4}" "$(url "$2")$3")
  [[ $got == "$1" ]] || { echo "  $2 $3 answered $got, not $1" >&2; return 1; }
}
check() { # CODE CURL-OPTIONS...: of a critical check of what the caller says
  answers "$1" risk /risk/critical-check/main -H 'Content-Type: application/json' "${@:2}" \
    -d '{"portfolio_value":100000,"positions":[{"symbol":"BTCUSDT","market_value":30829.9}]}'
}
holds() { # ENGINE PATH EXPRESSION: true of the answer d
  get "$1" "$2" | python3 -c 'import json, sys
d = json.load(sys.stdin)
sys.exit(0 if eval(sys.argv[1]) else "  not so: " + sys.argv[1] + " in " + json.dumps(d)[:300])' "$3"
}
running() { compose ps --services --status running | sort | tr '\n' ' '; }

# Non-root, nothing to write but the volume, no capability: what the engine was told and what the kernel says.
confined() { # SERVICE
  local id told inside
  id=$(compose ps -q "$1")
  told=$(docker inspect -f '{{.HostConfig.ReadonlyRootfs}}' "$id")
  [[ $told == true ]] || { echo "  $1: the root is not read-only" >&2; return 1; }
  # shellcheck disable=SC2016
  inside=$(docker exec "$id" sh -c 'awk "/^(Uid|Cap(Prm|Eff|Bnd)|NoNewPrivs):/{print \$2}" /proc/1/status | tr "\n" " "
    for f in /usr/local/bin/x /etc/x /tmp/x /x; do (: >$f) 2>/dev/null && echo "wrote $f"; done
    : >/var/lib/keel/.x && rm /var/lib/keel/.x && echo "keeps its data"')
  [[ $inside == "10001 0000000000000000 0000000000000000 0000000000000000 1 keeps its data" ]] ||
    { echo "  $1: $inside" >&2; return 1; }
}
all_confined() { for s in $(compose config --services); do confined "$s" || return 1; done; }
on_loopback_only() {
  # shellcheck disable=SC2046
  docker inspect $(compose ps -q) | python3 -c 'import json, sys
at = [(c["Name"], p, b["HostIp"]) for c in json.load(sys.stdin)
      for p, bs in c["NetworkSettings"]["Ports"].items() for b in bs or []]
sys.exit(0 if len(at) == 9 and all(ip == "127.0.0.1" for _, _, ip in at) else str(at))'
}
redis_refuses_strangers() {
  compose exec -T redis redis-cli ping 2>&1 | grep -q NOAUTH &&
    compose exec -T -e REDISCLI_AUTH="$REDIS_PASSWORD" redis redis-cli ping | grep -q PONG
}
starts() { compose run --rm -T --no-deps "$@" risk-engine --check-config >/dev/null; }
refuses() { # WORDS OPTIONS...: it ends with a sentence that holds them
  fails starts "${@:2}" && { starts "${@:2}" || true; } 2>&1 | grep -qF "$1"
}

demo() { # OPTIONS...: a session through the nine
  compose run --rm -T demo "$@" >"$work/demo" 2>&1 || { cat "$work/demo" >&2; return 1; }
  grep -E '^(orders|account) ' "$work/demo" | sed 's/^/       /'
  grep -qx 'session ok' "$work/demo"
}

# Every fill of the journal is in the ledger, once, and counted by risk; entries sum to zero.
cat >"$work/agree.py" <<'end'
import collections, json, sys, urllib.request

def call(url, body=None):
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=10))

def pages(url, name):
    after = ""
    while True:
        page = call(f"{url}?limit=1000{after}")
        yield from page[name]
        if not page[name] or page["next"] is None:
            return
        after = f"&after={page['next']}"

strategy, portfolio, risk = sys.argv[1:4]
of = collections.defaultdict(list)
for f in pages(strategy + "/fills", "fills"):
    of[f["portfolio_id"]].append(f"{f['venue']} {f['trade_id']}")
for p, journal in of.items():
    entries = list(pages(f"{portfolio}/portfolios/{p}/ledger", "entries"))
    ledger = [e["ref"] for e in entries if e["kind"] == "fill"]
    counted = call(f"{risk}/risk/report/{p}", b"{}")["fills"]
    if sorted(journal) != sorted(ledger) or counted != len(journal) or any(e["sum"] != "0" for e in entries):
        sys.exit(f"  portfolio {p}: fills in the journal {len(journal)}, in the ledger {len(ledger)}, at risk {counted}")
end
agree() { python3 "$work/agree.py" "$(url strategy)" "$(url portfolio)" "$(url risk)"; }
journal() { # fills so far
  get strategy "/fills?limit=1000" | python3 -c 'import json, sys; print(json.load(sys.stdin)["count"])'
}
until_true() { # SECONDS COMMAND...
  local end=$((SECONDS + $1))
  until "${@:2}" 2>"$work/why"; do
    ((SECONDS < end)) || { cat "$work/why" >&2; return 1; }
    sleep 0.5
  done
}
more_than() { (($(journal) > $1)); }

# In the stage that compiled, with libraries that are newer than Debian 12's: hiredis has TLS, libmicrohttpd is 1.0. A
# test that is skipped there is a failure, too.
cat >"$work/tls.yaml" <<end
services: {tls: {build: {context: "$PWD", dockerfile: docker/Dockerfile, target: build}}}
end
tls() {
  tar c tests | compose -f "$work/tls.yaml" run --rm -T tls sh -euc 'tar x
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends redis-server openssl \
      python3; } >/tmp/apt 2>&1 || { cat /tmp/apt; exit 1; }
    python3 tests/integration/test_http.py Http.test_each_answer_is_its_own
    python3 tests/integration/test_redis_ha.py Tls' >"$work/tls" 2>&1 && [[ $(grep -cx OK "$work/tls") == 2 ]] && return
  cat "$work/tls" >&2
  return 1
}

# A stop that drained: everyone ended by itself with 0, and Redis after the last engine.
drained() {
  # shellcheck disable=SC2046
  docker inspect $(compose ps -aq) | python3 -c 'import json, sys
from datetime import datetime
def when(c):
    whole, part = c["State"]["FinishedAt"].rstrip("Z").split(".")
    return datetime.fromisoformat(whole).timestamp() + float("0." + part)
ended = sorted(json.load(sys.stdin), key=when)
bad = [(c["Name"], c["State"]["ExitCode"]) for c in ended if c["State"]["ExitCode"] != 0 or c["State"]["Running"]]
last = ended[-1]["Config"]["Labels"]["com.docker.compose.service"]
ok = len(ended) == 10 and not bad and last == "redis"
sys.exit(0 if ok else f"  {len(ended)} ended, not with 0: {bad}, last {last}")'
}

echo "== images"
expect "one file builds the images of the nine engines, of Redis and of keel" compose --profile demo build -q

echo "== the libraries of Debian 13"
expect "the stage that compiles is an image" compose -f "$work/tls.yaml" build -q
expect "engines, Redis and Sentinel over TLS; answers of their own" tls

echo "== one engine"
expect "docker compose up -d risk-engine" compose up -d risk-engine
expect "/health answers 200 to the host" holds risk /health \
  'd["engine"] == "risk" and d["status"] in ("healthy", "degraded")'
expect "/hybrid/performance answers the host" holds risk /hybrid/performance '"critical_check" in d["operations"]'
expect "that engine and Redis run, nothing else" test "$(running)" = "redis risk-engine "
expect "a critical check is computed" check 200
expect "a service's name is a Host it takes" check 200 -H 'Host: risk-engine:8200'
expect "another name is not" check 403 -H 'Host: elsewhere:8200'
expect "the probe says it is well" compose exec -T risk-engine engine --probe
expect "the probe of a port where nothing is says no" fails compose exec -T -e PORT=1 risk-engine engine --probe
expect "with tokens it starts" starts -e ALLOW_UNAUTHENTICATED=false -e READ_TOKEN=secret
expect "without, only when told to" refuses "HTTP_HOST is beyond loopback" -e ALLOW_UNAUTHENTICATED=false
expect "and never live" refuses "KEEL_MODE is live" -e KEEL_MODE=live

echo "== all"
expect "docker compose up: nine engines and Redis are healthy" compose up -d --wait --wait-timeout 120
for e in "${!port[@]}"; do
  expect "$e answers the host, reads the bus, is hybrid" until_true 20 holds "$e" /health \
    'd["status"] in ("healthy", "degraded") and d["messagebus_connected"] and d["hybrid_integration"]'
done
expect "all are non-root, read-only, without capabilities" all_confined
expect "ports are published on loopback only" on_loopback_only
expect "Redis wants its password" redis_refuses_strangers
expect "docker compose run --rm demo: the session's counts and money agree" demo

echo "== stop under load"
before=$(journal)
session=$(compose run -d demo --seed 11 --duration 9000 --speed 30)
expect "a long session trades" until_true 60 more_than $((before + 5))
docker rm -f "$session" >/dev/null # only the onlooker: the feed and the strategies go on
expect "its feed runs" holds marketdata /feeds 'any(f["state"] == "STARTED" for f in d["feeds"])'
before=$(journal)
expect "docker compose stop" compose stop
expect "every engine drained (exit 0), Redis ended last" drained
expect "docker compose start" compose up -d --wait --wait-timeout 120
expect "no fill is lost or doubled: journal, ledger and risk agree" until_true 30 agree
expect "the journal holds what it held, $before fills at least" more_than $((before - 1))

echo "== plain"
export ENABLE_HYBRID=false
expect "ENABLE_HYBRID=false docker compose up" compose up -d --wait --wait-timeout 120
for e in "${!port[@]}"; do
  expect "$e is plain" holds "$e" /health 'not d["hybrid_integration"]'
  expect "$e has no /hybrid" answers 404 "$e" /hybrid/performance
done
expect "the session's counts and money agree" demo
expect "docker compose stop" compose stop
expect "every engine drained (exit 0), Redis ended last" drained
