"""Hybrid against plain: critical operations at a fixed rate while bulk work saturates the same engine.

    bench_hybrid.py [--runs N] [--seconds S] [--samples N] [--engine NAME]

Two systems stand side by side, the same binaries and data, one with ENABLE_HYBRID=false; they take turns, so a slow spell of
the machine falls on both. Bulk is a closed loop of clients that wait when a refusal tells them to; nothing is pinned, the
engine has every core. Latency counts from the schedule where the engine kept a request waiting for a connection, else from when
the meter sent it; how late the meter's own timer was is in a row of its own. Orders need fresh prices, so a session goes on in
both systems while strategy is measured; then it ends, since what it costs eight engines of each system hides what one engine
does. An order is four commits one after the other, so what the disk takes for these, and nothing else, is measured in the same
run. On which core the scheduler puts meter and engine changes an idle answer by half: the idle p50 is the median of short turns.
Strategy has closed more orders than it keeps in memory, as it has after hours of work.

Bulk work comes in the pieces that people ask for: a week of minutes to test a rule on, ten thousand draws of fifty assets, a
thousand predictions. What is judged is beside these. Strategy, risk and ml are measured beside small pieces as well (`small`),
which trouble a plain engine less: a smaller piece is over sooner.
"""
import argparse
import contextlib
import json
import math
import os
import statistics
import sys
import time

from bench_http import CHECK, ENV, ORDER, PREDICT, lift_order_rate
from world import Background, Goals, Series, World, finish, load, ratio, table, wait_for, within_target

ENGINES = ["portfolio", "risk", "strategy", "features", "ml", "analytics", "factor", "marketdata"]
MODES = ("hybrid", "plain")
TURNS, TURN_S = 24, 0.25  # that a run's idle p50 is the median of
KEPT = 1000     # closed orders that strategy keeps in memory
COMMIT = 28 << 10  # bytes: an order's share of what strategy and risk write, a commit
RULE = {"strategy_id": "crosses", "strategy_name": "averages that cross", "kind": "ma_cross", "symbols": ["BTCUSDT"],
        "parameters": {"fast": "sma_10", "slow": "sma_20", "notional": 1000}}


def minutes(n):
    """Bars of a price that swings, so that averages cross."""
    close = [60000 + 400 * math.sin(i / 17) + 150 * math.sin(i / 5) for i in range(n + 1)]
    return [{"ts_close": (1700000000 + 60 * i) * 10**9, "open": round(close[i], 2), "close": round(close[i + 1], 2),
             "high": round(max(close[i:i + 2]) + 9, 2), "low": round(min(close[i:i + 2]) - 9, 2), "volume": 50}
            for i in range(n)]


def covariance(n):
    """Of a market that all follow, and of each one's own noise; row by row."""
    return [round(1e-4 * ((0.6 + i % 5 / 10) * (0.6 + k % 5 / 10) + (0.5 if i == k else 0)), 9)
            for i in range(n) for k in range(n)]


ASSETS = 50
TEST, SMALL_TEST = json.dumps({"bars": minutes(10000)}), json.dumps({"bars": minutes(1000), "resamples": 2000})
SIMULATION = json.dumps({"method": "monte_carlo", "covariance": covariance(ASSETS), "positions": [
    {"symbol": f"S{i}USDT", "market_value": 10000 - 300 * i} for i in range(ASSETS)]})
VAR = json.dumps({"positions": [{"symbol": "BTCUSDT", "market_value": 100000}],
                  "returns": [((i * 7919) % 2003 - 1001) * 1e-5 for i in range(4000)]})


def batch(n):
    return json.dumps({"model_id": "price_model", "inputs": [json.loads(PREDICT)] * n})


def floor(folder, commits, rate, seconds):
    """p50 and p99 in us of so many writes with fdatasync in a row, to files that are laid out, at a rate."""
    files, took, data = [], [], os.urandom(COMMIT)
    try:
        for i in range(commits):
            files.append(os.open(os.path.join(folder, f"floor{i}"), os.O_RDWR | os.O_CREAT, 0o600))
            os.pwrite(files[i], bytes(1 << 22), 0)
            os.fsync(files[i])
        begin = time.monotonic()
        for i in range(int(rate * seconds)):
            time.sleep(max(0, begin + i / rate - time.monotonic()))
            start = time.perf_counter()
            for f in files:
                os.pwrite(f, data, i * COMMIT % (1 << 22))
                os.fdatasync(f)
            took.append((time.perf_counter() - start) * 1e6)
    finally:
        for i, f in enumerate(files):
            os.close(f)
            os.unlink(os.path.join(folder, f"floor{i}"))
    took.sort()
    return took[len(took) // 2], took[len(took) * 99 // 100]


class Case:
    """One engine: its critical operation at a rate, and what keeps it busy: (path, body, clients) each; small: in smaller pieces."""

    samples = 1000  # of which the worst ten are beyond p99; half as many of what is not judged

    def __init__(self, engine, path, body, rate, target_ms, goal, bulk, what, small=None, commits=0):
        self.engine, self.path, self.body, self.rate, self.target_ms = engine, path, body, rate, target_ms
        self.goal, self.what = goal, what
        self.loads = {"idle": [], "bulk": bulk, **({"small": small} if small else {})}
        self.needs_prices = engine == "strategy"
        self.commits, self.floor = commits, {"p50": Series(), "p99": Series()}
        self.late = {"p50": Series(), "p99": Series()}
        self.seen = {(mode, load, figure): Series() for mode in MODES for load in self.loads
                     for figure in ("p50", "p99", "within", "done")}

    def seconds(self, least):
        return max(least, self.samples / self.rate)

    def meter(self, world, seconds, warm_up=0.5):
        return load(world[self.engine].port, self.path, self.body, 4, seconds, rate=self.rate, warm_up=warm_up,
                    target_ms=self.target_ms, core=None)

    def measure_idle(self, worlds, first):
        took = {mode: [] for mode in MODES}
        for t in range(TURNS):
            for mode in MODES if (t + first) % 2 == 0 else MODES[::-1]:
                took[mode].append(self.meter(worlds[mode], TURN_S, 0.1)["p50_us"])
        for mode in MODES:
            self.seen[mode, "idle", "p50"].add(statistics.median(took[mode]))

    def measure(self, world, mode, seconds, name):
        port, busy = world[self.engine].port, name != "idle"
        with contextlib.ExitStack() as stack:
            beside = [stack.enter_context(Background(port, *bulk)) for bulk in self.loads[name]]
            got = self.meter(world, self.seconds(seconds) / (2 if name == "small" else 1))
        bad = sum(n for code, n in got["status"].items() if not code.startswith("2"))
        if bad:
            print(f"{self.engine} {mode} {name}: {bad} of {got['answered']} not 2xx, the first: {got['sample'][:300]}",
                  file=sys.stderr)
        if busy:
            for figure in ("p50", "p99"):
                self.late[figure].add(got[f"late_{figure}_us"])
            self.seen[mode, name, "p50"].add(got["p50_us"])
            self.seen[mode, name, "done"].add(sum(b.per_second for b in beside))
        self.seen[mode, name, "p99"].add(got["p99_us"])
        self.seen[mode, name, "within"].add(within_target(got))

    def measure_floor(self, world, seconds):
        if self.commits:
            got = floor(world.folder, self.commits, self.rate, self.seconds(seconds))
            for figure, us in zip(("p50", "p99"), got):
                self.floor[figure].add(us)

    def rows(self):
        if self.commits:
            yield (f"{self.commits} commits to disk", "idle", "", self.floor["p50"].text(), self.floor["p99"].text(), "", "", "")
        yield ("the meter's timer", "busy", "both", self.late["p50"].text(), self.late["p99"].text(), "", "", "")
        for name in self.loads:
            for mode in MODES:
                p50, p99, within, done = (self.seen[mode, name, f] for f in ("p50", "p99", "within", "done"))
                better = ratio(self.seen["plain", name, "p99"], self.seen["hybrid", name, "p99"]).text("{:.2f}") \
                    if mode == "hybrid" else ""
                yield (self.engine, name, mode, p50.text(), p99.text(), within.text("{:.2f}"), better,
                       done.text() if done.values else "")

    def judge(self, goals):
        h50, h99 = self.seen["hybrid", "idle", "p50"], self.seen["hybrid", "idle", "p99"]
        busy, plain = self.seen["hybrid", "bulk", "p99"], self.seen["plain", "bulk", "p99"]
        better, idle = ratio(plain, busy), ratio(h50, self.seen["plain", "idle", "p50"])
        worse = ratio(busy, h99)
        good = self.seen["hybrid", "bulk", "within"].median
        goals.add(f"{self.engine} under bulk, plain's p99 / hybrid's", f">= {self.goal}x", better.text("{:.2f}x"),
                  better.median >= self.goal and good >= 99)
        goals.add(f"{self.engine} unloaded, hybrid's p50 / plain's", "<= 1.05x", idle.text("{:.2f}x"), idle.median <= 1.05)
        goals.add(f"{self.engine} hybrid p99 under bulk / idle", "<= 2x", worse.text("{:.2f}x"), worse.median <= 2)
        goals.add(f"{self.engine} hybrid p99 under bulk within target", f"<= {self.target_ms} ms, 99 % answered in it",
                  f"{busy.median / 1000:.2f} ms, {good:.2f} %", busy.median <= self.target_ms * 1000 and good >= 99)


def cases():
    return [
        Case("strategy", "/strategies/manual/execute", ORDER, 50, 50, 3.3, [("/strategies/crosses/test", TEST, 12)],
             "orders through risk, journal and paper venue; bulk: 12 clients of backtests over a week of minutes, 10,000 bars; "
             "small: 1,000 bars", [("/strategies/crosses/test", SMALL_TEST, 12)], 4),
        Case("risk", "/risk/critical-check/main", CHECK, 300, 100, 5.7, [("/risk/portfolio-var/main", SIMULATION, 12)],
             f"critical check; bulk: 12 clients of a Monte Carlo value at risk, 10,000 draws of {ASSETS} assets; small: a historical one "
             "over 4,000 supplied returns", [("/risk/portfolio-var/main", VAR, 12)]),
        Case("analytics", "/analytics/realtime/main", '{"complexity":"simple"}', 100, 200, 4.8,
             [("/analytics/realtime/main", '{"complexity":"institutional"}', 8),
              ("/analytics/performance/main", '{"period_days":36500}', 4)],
             "realtime, simple; bulk: 8 clients of institutional reports, 4 of performance over the whole curve"),
        Case("ml", "/ml/critical-predict/price_model", PREDICT, 300, 5, 3.7, [("/ml/batch-inference", batch(1000), 12)],
             "critical predict; bulk: 12 clients of batches of 1,000 predictions; small: of 50",
             [("/ml/batch-inference", batch(50), 12)]),
    ]


def prepare(world):
    world.session(240)
    world.slow_session()
    wait_for(lambda: world["ml"].get("/models").json["models"][0]["status"] == "ready", 60, 0.2)
    lift_order_rate(world)
    load(world["strategy"].port, "/strategies/manual/execute", ORDER, 32, 4.0, rate=KEPT / 2, core=None)
    made = world["strategy"].post("/strategies", RULE)
    assert made.status == 200, made


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--seconds", type=float, default=2.0)
    p.add_argument("--samples", type=int, default=Case.samples)
    p.add_argument("--engine")
    a = p.parse_args()
    Case.samples = a.samples
    goals = Goals()
    env = dict(ENV, MAX_CLOSED_ORDERS=str(KEPT))
    with World(ENGINES, True, False, env) as hybrid, World(ENGINES, False, False, env) as plain:
        worlds = {"hybrid": hybrid, "plain": plain}
        for w in worlds.values():
            prepare(w)
        chosen = [c for c in cases() if a.engine in (None, c.engine)]
        for needs_prices in (True, False):
            if not needs_prices:
                for w in worlds.values():
                    w.end_session()
            for r in range(a.runs):
                for c in (x for x in chosen if x.needs_prices == needs_prices):
                    c.measure_floor(hybrid, a.seconds)
                    c.measure_idle(worlds, r)
                    for name in c.loads:
                        for mode in MODES if r % 2 == 0 else MODES[::-1]:
                            c.measure(worlds[mode], mode, a.seconds, name)
        for c in chosen:
            c.judge(goals)
        text = "\n".join(f"* {c.engine}, {c.rate}/s, target {c.target_ms} ms: {c.what}." for c in chosen)
        finish(goals, [text + "\n", table("Critical operations at a fixed rate, engine idle and saturated with bulk work",
                                          ("engine", "load", "mode", "p50 us", "p99 us", "within target, %",
                                           "plain p99 / hybrid p99", "bulk answers/s"), [r for c in chosen for r in c.rows()])])


if __name__ == "__main__":
    sys.exit(main())
