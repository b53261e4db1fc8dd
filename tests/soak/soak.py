"""The long fault run: nine engines trade a simulated market while Redis is killed, paused, slowed and flushed, engines are
killed, paused and slowed, and clients misbehave. At the end the books must agree to the last unit, every breaker must
have closed again by itself, and no engine may have grown.

    soak.py [--minutes 30] [--seed N]

Two phases: in the first three fifths everything is faulted; in the rest engines are not killed any more, so that their
memory can be compared: from one fifth into that phase to its end it may grow by GROWTH_SHARE and GROWTH_MB.
"""
import argparse
import collections
import json
import os
import random
import signal
import socket
import sys
import threading
import time
import unittest
from decimal import Decimal

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "support"), os.path.join(HERE, "..", "integration")]
from books import all_fills, settle, venue_trades, verify  # noqa: E402
from keeltest import ENGINES, HYBRID, wait_for  # noqa: E402
from test_hostile import GARBAGE, raw, routes  # noqa: E402
from test_kill import Session  # noqa: E402

GROWTH_SHARE, GROWTH_MB = 0.15, 16
OPTIONS = None  # of the command line

GOOD = [("risk", "POST", "/risk/critical-check/main", {}), ("analytics", "POST", "/analytics/realtime/main", {}),
        ("portfolio", "GET", "/portfolios/main", None), ("features", "GET", "/features/available", None),
        ("ml", "POST", "/ml/critical-predict/price_model", {"symbol": "BTCUSDT"}),
        ("factor", "GET", "/factors/definitions", None), ("marketdata", "GET", "/symbols", None),
        ("strategy", "GET", "/orders?limit=50", None), ("websocket", "GET", "/topics", None)]


class Misbehaviour(threading.Thread):
    """Clients that send garbage, too much, half of it or nothing, beside some that are in order."""

    def __init__(self, engines, seed):
        super().__init__(daemon=True)
        self.engines, self.rng, self.done = engines, random.Random(seed), threading.Event()
        self.paths = {e.name: routes(e) for e in engines}
        self.statuses, self.bugs = collections.Counter(), []

    def good(self):
        name, method, path, body = self.rng.choice(GOOD)
        engine = next(e for e in self.engines if e.name == name)
        self.note(engine, method, path, body, engine.ask(method, path, body, timeout=10))

    def garbage(self, engine):
        method, path = self.rng.choice(self.paths[engine.name])
        if method == "GET":
            body, path = None, path + "?limit=-1&unheard_of=1"
        else:
            body = self.rng.choice(GARBAGE)
        # An order without an id would be a good one sent twice; what stops things is asked for by the run itself.
        if "trading-state" in path or "force-open" in path or "disable" in path or method == "DELETE" or "/stop" in path:
            return
        self.note(engine, method, path, body, engine.ask(method, path, body, timeout=10))

    def note(self, engine, method, path, body, got):
        self.statuses[got.status] += 1
        if got.status == 500:
            self.bugs.append(f"{engine.name} {method} {path} {body!r}: {got}")

    def rude(self, engine):
        kind = self.rng.randrange(4)
        if kind == 0:
            raw(engine.port, b"GET /hea", 0.2)
        elif kind == 1:
            raw(engine.port, b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{", 0.2)
        elif kind == 2:
            raw(engine.port, b"A" * 40000, 0.2)
        else:
            held = [socket.create_connection(("127.0.0.1", engine.port), timeout=2) for _ in range(40)]
            for s in held:
                s.close()
        self.statuses["rude"] += 1

    def run(self):
        while not self.done.is_set():
            engine = self.rng.choice(self.engines)
            try:
                self.rng.choice((self.good, lambda: self.garbage(engine), lambda: self.rude(engine)))()
            except (OSError, ValueError) as e:
                self.statuses[type(e).__name__] += 1  # it was killed or is paused
            except Exception as e:  # of http.client: half an answer from an engine that was killed
                self.statuses[type(e).__name__] += 1
            self.done.wait(0.02)


class Soak(unittest.TestCase):
    def setUp(self):
        self.rng = random.Random(OPTIONS.seed)
        self.faults, self.restarts = collections.Counter(), collections.Counter()
        self.rss = {}
        self.began = time.monotonic()

    # ---- faults ----

    def nap(self, low, high):
        time.sleep(self.rng.uniform(low, high))

    def hold(self, process, low, high):
        process.kill(signal.SIGSTOP)
        self.nap(low, high)
        process.kill(signal.SIGCONT)

    def slow(self, process):
        """Runs a third of the time for a while."""
        for _ in range(self.rng.randrange(10, 40)):
            self.hold(process, 0.03, 0.06)
            time.sleep(0.02)

    def kill_redis(self, s):
        s.chain.redis.kill()
        self.nap(0.0, 3.0)
        s.chain.redis.start()

    def pause_redis(self, s):
        self.hold(s.chain.redis, 0.2, 4.0)

    def slow_redis(self, s):
        self.slow(s.chain.redis)

    def flush_redis(self, s):
        self.assertTrue(s.chain.redis.command("FLUSHALL").startswith(b"+OK"))

    def kill_engine(self, s):
        for name in self.rng.sample(list(ENGINES), self.rng.choice((1, 1, 1, 2))):
            s.kill(name)
            self.restarts[name] += 1
            self.nap(0.0, 1.0)
            s.revive(name)

    def pause_engine(self, s):
        self.hold(s.chain[self.rng.choice(list(ENGINES))], 0.2, 3.0)

    def slow_engine(self, s):
        self.slow(s.chain[self.rng.choice(list(ENGINES))])

    # ---- the run ----

    def alive(self, s):
        for e in s.chain.engines.values():
            self.assertIsNone(e.p.poll(), f"{e.name} ended by itself with {e.p.poll()}:\n{e.log()[-4000:]}")

    def keep_feeding(self, s):
        try:
            feeds = s.chain["marketdata"].get("/feeds").json["feeds"]
        except (OSError, KeyError, TypeError):
            return
        if not any(f["state"] == "STARTED" for f in feeds):
            s.feed()

    def phase(self, s, kinds, until, at=None):
        """Faults of these kinds until then; at: (time, what to do), once."""
        while time.monotonic() < until:
            if at and time.monotonic() > at[0]:
                at[1]()
                at = None
            kind = self.rng.choice(kinds)
            kind(s)
            self.faults[kind.__name__] += 1
            self.nap(0.5, 3.0)
            self.alive(s)
            self.keep_feeding(s)

    def note_rss(self, s, when):
        for e in s.chain.engines.values():
            with open(f"/proc/{e.p.pid}/status") as f:
                kb = int(next(line for line in f if line.startswith("VmRSS")).split()[1])
            self.rss.setdefault(e.name, {})[when] = (e.p.pid, kb / 1024)

    def breakers_close(self, s):
        """Once the faults are over all of them are closed, by ordinary traffic and nothing else; which had opened, how often."""
        opened, waiting = {}, None

        def all_closed():
            nonlocal waiting
            self.keep_feeding(s)
            for name, method, path, body in GOOD:
                try:
                    s.chain[name].ask(method, path, body, timeout=5)
                except OSError:
                    pass
            waiting = []
            for e in s.chain.engines.values():
                for b in e.get("/hybrid/circuit-breakers").json["circuit_breakers"]:
                    name = f"{e.name}.{b['name']}"
                    opened[name] = max(opened.get(name, 0), sum(t["to"] == "open" for t in b.get("transitions", [])))
                    if b["state"] != "closed":
                        waiting.append(f"{name}: {b['state']}")
            return not waiting
        try:
            wait_for(all_closed, 240, 1.0)
        except AssertionError:
            self.fail(f"breakers did not close by themselves: {waiting}")
        return {k: v for k, v in opened.items() if v}

    def check_rss(self):
        rows, grown = [], []
        for name, seen in sorted(self.rss.items()):
            (pid, before), (pid_after, after) = seen["warm"], seen["end"]
            self.assertEqual(pid, pid_after, f"{name} was replaced while its memory was watched")
            rows.append(f"  {name:11} {before:7.1f} -> {after:7.1f} MB")
            if after > before * (1 + GROWTH_SHARE) + GROWTH_MB:
                grown.append(name)
        print(f"memory, bound +{GROWTH_SHARE:.0%} + {GROWTH_MB} MB\n" + "\n".join(rows), flush=True)
        self.assertEqual(grown, [], "memory grew")

    def check_logs(self, s):
        """What ended a process, and errors by event."""
        errors = collections.Counter()
        for e in s.chain.engines.values():
            log = e.log()
            for mark in ("broken assumption", "ERROR: AddressSanitizer", "WARNING: ThreadSanitizer", "runtime error"):
                self.assertNotIn(mark, log, f"{e.name}: {log[max(0, log.find(mark) - 500):][:2000]}")
            for line in log.splitlines():
                if '"level":"error"' in line:
                    try:
                        errors[f"{e.name} {json.loads(line)['event']}"] += 1
                    except (ValueError, KeyError):
                        errors[f"{e.name} {line[:80]}"] += 1
        return errors

    def test_fault_run(self):
        total = OPTIONS.minutes * 60
        s = Session(self, "everysec")
        clients = Misbehaviour(list(s.chain.engines.values()), OPTIONS.seed)
        clients.start()
        self.addCleanup(clients.done.set)
        wait_for(lambda: len(s.chain["strategy"].get("/fills?after=0&limit=5").json["fills"]) >= 5, 60)
        start = time.monotonic()
        redis = [self.kill_redis, self.pause_redis, self.slow_redis, self.flush_redis]
        calm = [self.pause_engine, self.slow_engine]
        self.phase(s, redis + calm + [self.kill_engine] * 4, start + 0.6 * total)
        self.phase(s, redis + calm, start + total, (start + 0.68 * total, lambda: self.note_rss(s, "warm")))
        if "warm" not in self.rss.get("risk", {}):
            self.note_rss(s, "warm")
        opened = self.breakers_close(s) if HYBRID == "true" else {}
        s.end()
        picture = settle(s.chain, 240)
        verify(self, picture)
        clients.done.set()
        clients.join(30)
        self.note_rss(s, "end")
        dead = {n: e.get("/bus/dead").json.get("count") for n, e in s.chain.engines.items()}
        fills = {f["trade_id"]: (f["client_order_id"], Decimal(f["quantity"]), Decimal(f["price"]))
                 for f in all_fills(s.chain["strategy"])}
        for e in s.chain.engines.values():
            self.assertEqual(e.stop(60), 0, f"{e.name} did not drain: {e.log()[-3000:]}")
        errors = self.check_logs(s)
        states = collections.Counter(o["state"] for o in picture["orders"])
        print(f"fault run of {OPTIONS.minutes:g} minutes, seed {OPTIONS.seed}\n"
              f"faults        {dict(self.faults)}\n"
              f"killed        {dict(self.restarts)}\n"
              f"clients       {dict(clients.statuses)}\n"
              f"orders        {dict(states)}; {len(fills)} fills\n"
              f"dead letters  {dead}\n"
              f"opened        {opened}; all closed again\n"
              f"error events  {dict(errors)}", flush=True)
        self.check_rss()
        self.assertEqual(fills, venue_trades(s.chain.folder), "the venue's evidence and the journal differ")
        self.assertEqual(clients.bugs, [], "answered 500")
        self.assertFalse(any(dead.values()), dead)
        self.assertGreater(len(fills), 20)
        print("books: fills = positions = ledger = P&L; venue = journal; nothing lost, nothing twice")


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--minutes", type=float, default=30)
    p.add_argument("--seed", type=int, default=int(time.time()))
    OPTIONS = p.parse_args()
    unittest.main(argv=[sys.argv[0]], verbosity=2)
