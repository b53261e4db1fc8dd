"""HTTP under load: GET /health and a critical POST of every engine, closed loop and at fixed rates, beside a bare
libmicrohttpd handler with the same bytes, nginx with one worker, and handlers of libmicrohttpd and h2o that parse and
print risk's critical check with cJSON; and a critical request beside a stream of 1 ms jobs.

    bench_http.py [--runs N] [--seconds S]

Servers take turns within each run, so a slow spell of the machine falls on all of them; ratios are made run by run.
"""
import argparse
import json
import os
import shutil
import sys

from world import (BIN, SERVER_CORE, SPINS, Background, Goals, Process, Series, World, cpu_ns, finish, free_port, good, load,
                   pin, ratio, request, table, wait_for, within_target)

CONNECTIONS = (1, 16, 64, 256)
CHECK = ('{"portfolio_value":100000,"positions":[{"symbol":"BTCUSDT","market_value":30829.9},'
         '{"symbol":"ETHUSDT","market_value":-12000}]}')
LIVE = ('{"order":{"client_order_id":"bench-{n}","strategy_id":"manual","symbol":"BTCUSDT","side":"BUY","quantity":"0.01",'
        '"order_type":"LIMIT","price":"61660"}}')
ORDER = ('{"client_order_id":"bench-{n}","symbol":"BTCUSDT","side":"BUY","quantity":"0.0001","order_type":"LIMIT",'
         '"price":"70000","time_in_force":"IOC"}')
FILL = ('{"trade_id":"bench-{n}","client_order_id":"bench-{n}","venue":"bench","strategy_id":"manual","symbol":"BTCUSDT","side":"BUY",'
        '"quantity":"0.0001","price":"61660","fee":{"amount":"0.002","currency":"USDT"},"ts_event":{now}}')
QUOTE = ('{"data":[{"symbol":"BENCHUSDT","data_type":"quote","source":"bench","timestamp":{now},'
         '"data":{"bid":61659.7,"bid_size":2.311,"ask":"61659.8","ask_size":"0.874"}}]}')
PREDICT = '{"symbol":"BTCUSDT","max_age_ms":86400000}'
PRICES = json.dumps({"prices": [61650.1 + (i * 7 % 11) for i in range(32)], "volumes": [10.0 + i % 5 for i in range(32)],
                     "current_price": 61659.75, "spec": "1m"})
ASSETS = 10
SIMULATION = {"method": "monte_carlo", "positions": [{"symbol": f"S{i}USDT", "market_value": 1000} for i in range(ASSETS)],
              "covariance": [2e-4 if i == k else 1e-4 for i in range(ASSETS) for k in range(ASSETS)]}
ENV = {"BAR_SPEC": "1s", "STALE_BARS": "1000", "PERIOD_S": "1"}

BESIDE_RATE = 500

# engine, operation, path, body, target in ms, rate of the open loop
OPS = (
    ("risk", "critical check, supplied", "/risk/critical-check/main", CHECK, 100, 2000),
    ("risk", "critical check, live order", "/risk/critical-check/main", LIVE, 100, 2000),
    ("ml", "critical predict", "/ml/critical-predict/price_model", PREDICT, 5, 2000),
    ("strategy", "execute (journal, risk, venue)", "/strategies/manual/execute", ORDER, 50, 50),
    ("features", "calculate, 32 prices", "/features/calculate/BTCUSDT", PRICES, 50, 2000),
    ("analytics", "realtime, standard", "/analytics/realtime/main", '{"complexity":"standard"}', 200, 500),
    ("factor", "calculate, 2 factors", "/factors/calculate/BTCUSDT", '{"factor_ids":["momentum","volatility"]}', 100, 2000),
    ("portfolio", "fills (ledger on disk)", "/portfolios/main/fills", FILL, 100, 50),
    ("marketdata", "ingest, one quote", "/data/ingest", QUOTE, 50, 1000),
)


class Server:
    WARM_UP = 0.05

    def __init__(self, name, process, path, body=None):
        self.name, self.port, self.pid, self.path, self.body = name, process.port, process.p.pid, path, body
        self.rate, self.p50, self.p99, self.bad, self.cpu = ({c: Series() for c in CONNECTIONS} for _ in range(5))

    def measure(self, connections, seconds):
        before = cpu_ns(self.pid)
        got = load(self.port, self.path, self.body, connections, seconds, warm_up=self.WARM_UP, obeys=True)
        self.rate[connections].add(got["per_second"] * good(got))
        self.cpu[connections].add((cpu_ns(self.pid) - before) * 1e-3 /
                                  max(1.0, got["per_second"] * (seconds + self.WARM_UP)))
        self.p50[connections].add(got["p50_us"])
        self.p99[connections].add(got["p99_us"])
        self.bad[connections].add(100 * (1 - good(got)) + got["broken"] + got["unanswered"])


def nginx_text(text):
    """A quoted string of nginx' configuration; longer than one of its parameters may be: pieces in variables."""
    text = text.replace("\\", "\\\\").replace("'", "\\'").replace("$", "")
    pieces = [text[i:i + 1500] for i in range(0, len(text), 1500)]
    sets = "".join(f"set $b{i} '{p}';\n" for i, p in enumerate(pieces))
    return sets, "".join(f"${{b{i}}}" for i in range(len(pieces)))


def start_nginx(world, body):
    """The process, or None where it is not installed."""
    program = shutil.which("nginx") or ("/usr/sbin/nginx" if os.path.exists("/usr/sbin/nginx") else None)
    if program is None:
        return None
    port = free_port()
    sets, text = nginx_text(body)
    f = world.folder
    path = world.write("nginx.conf", f"""
worker_processes 1; daemon off; master_process off; pid {f}/nginx.pid; error_log {f}/nginx.log;
events {{ worker_connections 1024; }}
http {{ access_log off; keepalive_requests 1000000000; default_type application/json;
  client_body_temp_path {f}/nb; proxy_temp_path {f}/np; fastcgi_temp_path {f}/nf; uwsgi_temp_path {f}/nu; scgi_temp_path {f}/ns;
  server {{ listen 127.0.0.1:{port} backlog=1024; location / {{
    add_header Cache-Control no-store; add_header X-Content-Type-Options nosniff;
    {sets} return 200 "{text}"; }} }} }}
""")
    return start_peer(world, [program, "-c", path, "-p", f], port)


def start_peer(world, argv, port):
    if not os.path.exists(argv[0]):
        return None
    p = world.started(Process(argv, log=os.path.join(world.folder, f"{os.path.basename(argv[0])}.log")))

    def up():
        try:
            return request(port, "GET", "/health").status == 200
        except OSError:
            assert p.p.poll() is None, p.log()
            return False
    wait_for(up)
    pin(p.p.pid, {SERVER_CORE})
    p.port = port
    return p


def start_peers(world):
    """Processes by name; those that are missing are None."""
    risk = world["risk"]
    health, check = risk.get("/health").body.decode(), risk.post("/risk/critical-check/main", CHECK).body.decode()
    files = [world.write("health.json", health), world.write("check.json", check)]
    peers = {"nginx": start_nginx(world, health)}
    for name, args in (("peer_mhd", files), ("peer_h2o", files[:1])):
        port = free_port()
        peers[name] = start_peer(world, [os.path.join(BIN, name), str(port), *args], port)
    return peers, len(health), len(check)


def compare(title, servers, runs, seconds, floors, goals):
    """One table; ratios of the first server to the others."""
    for r in range(runs):
        for c in CONNECTIONS:
            turn = servers if r % 2 == 0 else list(reversed(servers))
            for s in turn:
                s.measure(c, seconds)
    rows = []
    for c in CONNECTIONS:
        for s in servers:
            against = "" if s is servers[0] else ratio(servers[0].rate[c], s.rate[c]).text("{:.2f}")
            rows.append((c, s.name, s.rate[c].text(), s.p50[c].text(), s.p99[c].text(), s.cpu[c].text("{:.1f}"), against))
    for name, floor in floors:
        found = [s for s in servers if s.name == name]
        for c in (16, 64):
            what = f"{title.split(',')[0]}, {c} connections, against {name}"
            if not found:
                goals.add(what, f">= {floor:.2f}x", f"{name} is not installed", None)
                continue
            got = ratio(servers[0].rate[c], found[0].rate[c])
            goals.add(what, f">= {floor:.2f}x", got.text("{:.2f}x"), got.median >= floor)
    stalled = max(servers[0].bad[256].values)
    goals.add(f"{title.split(',')[0]}, 256 connections do not stall", "every request answered with 2xx",
              f"{servers[0].rate[256].median:,.0f}/s, {stalled:g} % or requests without a good answer", stalled == 0)
    return table(title, ("connections", "server", "requests/s", "p50 us", "p99 us", "CPU us/request", "keel / it"), rows)


def every_engine(world, runs, seconds):
    measured = [(op, Server(op[1], world[op[0]], op[2], op[3]), Series(), Series(), Series()) for op in OPS]
    for _ in range(runs):
        for op, server, p50, p99, within in measured:
            for c in CONNECTIONS:
                server.measure(c, seconds)
            got = load(server.port, server.path, server.body, 16, max(seconds, 1.0), rate=op[5], target_ms=op[4])
            p50.add(got["p50_us"])
            p99.add(got["p99_us"])
            within.add(within_target(got))
    rows, open_rows = [], []
    for op, server, p50, p99, within in measured:
        for c in CONNECTIONS:
            rows.append((f"{op[0]}: {op[1]}", c, server.rate[c].text(), server.p50[c].text(), server.p99[c].text(),
                         server.bad[c].text("{:.2f}")))
        open_rows.append((f"{op[0]}: {op[1]}", op[5], p50.text(), p99.text(), f"{op[4]} ms", within.text("{:.3f}")))
    return [table("Critical operations, closed loop",
                  ("operation", "connections", "2xx/s", "p50 us", "p99 us", "not 2xx, %"), rows),
            table("Critical operations at a fixed rate, latency from the schedule where a connection was lacking",
                  ("operation", "requests/s", "p50 us", "p99 us", "target", "within target, %"), open_rows)]


def job_body(risk):
    """A simulation that keeps a worker busy for about 1 ms, its number of draws found by asking; and how long one then takes."""
    n = 2000
    while True:
        body = json.dumps(dict(SIMULATION, num_simulations=n))
        took = load(risk.port, "/risk/portfolio-var/main", body, 1, 0.3)["p50_us"]
        if took >= 900 or n >= 1000000:
            return body, n, took
        n = int(n * min(4.0, max(1.1, 1000 / took)))


def beside_jobs(world, runs, seconds):
    """On all cores, as the engine would run: the worker must have one. Rows of the table, and p99 beside jobs over idle."""
    risk = world["risk"]
    pin(risk.p.pid, set(range(os.cpu_count())))
    body, n, took = job_body(risk)
    series = {name: Series() for name in ("idle p50", "idle p99", "busy p50", "busy p99", "ratio")}
    seconds = max(2.0, seconds)
    for _ in range(runs):
        idle = load(risk.port, "/risk/critical-check/main", CHECK, 4, seconds, rate=BESIDE_RATE, core=None)
        with Background(risk.port, "/risk/portfolio-var/main", body, 4):
            busy = load(risk.port, "/risk/critical-check/main", CHECK, 4, seconds, rate=BESIDE_RATE, warm_up=0.3, core=None)
        for name, got in (("idle", idle), ("busy", busy)):
            series[f"{name} p50"].add(got["p50_us"])
            series[f"{name} p99"].add(got["p99_us"])
        series["ratio"].add(busy["p99_us"] / idle["p99_us"])
    pin(risk.p.pid, {SERVER_CORE})
    where = "risk alone" if len(world.engines) == 1 else "beside seven other engines and a market data session"
    job = f"4 clients of a job of {took / 1000:.2f} ms ({n:,} draws of {ASSETS} assets)"
    return [(where, "idle", series["idle p50"].text(), series["idle p99"].text(), ""),
            (where, job, series["busy p50"].text(), series["busy p99"].text(), series["ratio"].text("{:.2f}"))], series["ratio"]


def jobs_table(world, runs, seconds, goals):
    rows, _ = beside_jobs(world, runs, seconds)
    world.end_session()
    with World(["risk"], env=ENV) as alone:
        own, ratio_alone = beside_jobs(alone, runs, seconds)
    goals.add("risk critical check beside 1 ms jobs, 4 at a time: p99 against idle", "<= 2x",
              ratio_alone.text("{:.2f}x"), ratio_alone.median <= 2)
    return table(f"Risk's critical check at {BESIDE_RATE}/s beside jobs",
                 ("engines", "jobs", "p50 us", "p99 us", "p99 beside / idle"), own + rows)


def lift_order_rate(world):
    """The default limit is far below what is measured here."""
    got = world["risk"].post("/risk/limits", {"limit_id": "default_order_rate", "limit_type": "order_rate",
                                              "limit_value": 1024})
    assert got.status < 300, got


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--seconds", type=float, default=0.4)
    p.add_argument("--peers-only", action="store_true")
    a = p.parse_args()
    goals, tables = Goals(), []
    with World(["portfolio", "risk", "strategy", "features", "ml", "analytics", "factor", "marketdata"], env=ENV) as w:
        if not a.peers_only:
            w.session(150)
            wait_for(lambda: w["ml"].get("/models").json["models"][0]["status"] == "ready", 60, 0.2)
            lift_order_rate(w)
        peers, n_health, n_check = start_peers(w)
        risk = w["risk"]
        health = [Server("keel", risk, "/health")] + [
            Server(name, peers[key], "/health") for name, key in
            (("nginx", "nginx"), ("h2o", "peer_h2o"), ("bare libmicrohttpd", "peer_mhd")) if peers[key]]
        check = [Server("keel", risk, "/risk/critical-check/main", CHECK)] + [
            Server(name, peers[key], path, CHECK) for name, key, path in
            (("bare libmicrohttpd", "peer_mhd", "/check"), ("libmicrohttpd + cJSON", "peer_mhd", "/cjson"),
             ("h2o + cJSON", "peer_h2o", "/cjson")) if peers[key]]
        tables.append(compare(f"GET /health, {n_health} bytes", health, a.runs, a.seconds, [("nginx", 1.0)], goals))
        tables.append(compare(f"Risk's critical check, {len(CHECK)} bytes to {n_check}", check, a.runs, a.seconds,
                              [("bare libmicrohttpd", 0.85), ("h2o + cJSON", 1.0)], goals))
        if not a.peers_only:
            w.slow_session()
            tables += every_engine(w, a.runs, a.seconds)
            tables.append(jobs_table(w, a.runs, a.seconds, goals))
        tables.append(f"The load {'never slept' if SPINS else 'slept between answers: the machine was busy otherwise'}.\n")
        missing = [k for k, v in peers.items() if not v]
        if missing:
            tables.append(f"Not installed, so not measured: {', '.join(missing)}.\n")
    finish(goals, tables)


if __name__ == "__main__":
    sys.exit(main())
