"""The hybrid guard from outside: breakers that are changed by hand and by themselves, their events on log, metrics and
bus, the operator's options, and the whole row of /hybrid/performance."""
import itertools
import json
import os
import re
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from keeltest import BIN, Chain, wait_for  # noqa: E402

OPTIONS = {"BREAKER_WINDOW": "time:30s", "BREAKER_MIN_CALLS": "10", "BREAKER_FAILURE_RATE": "0.4",
           "BREAKER_FAILURES": "1", "BREAKER_RECOVERY_MS": "200", "BREAKER_RECOVERY_MAX_MS": "1000",
           "BREAKER_PERMITS": "1", "BREAKER_HALF_OPEN_NEXT": "closed"}
OUTCOMES = {"ok", "slow", "failure", "timeout", "rejected", "cancelled", "client"}
QUANTILES = ["p50_us", "p90_us", "p95_us", "p99_us", "p999_us", "max_us"]


def breaker(engine, name):
    rows = engine.get("/hybrid/circuit-breakers").json["circuit_breakers"]
    return next(b for b in rows if b["name"] == name)


def change(engine, name, what):
    got = engine.post(f"/hybrid/circuit-breakers/{name}/{what}")
    assert got.status == 200, got


def events(chain, engine):
    """(target, from, to, reason) of the engine's breaker records, oldest first."""
    raw = chain.redis.command("XRANGE", f"nautilus-{engine}-hybrid-streams:critical", "-", "+")
    found = [json.loads(m) for m in re.findall(rb'\{"engine":"[a-z]+","target":[^}]*\}', raw)]
    return [(e["target"], e["from"], e["to"], e["reason"]) for e in found]


def logged(engine, **fields):
    """The log has a line with these fields."""
    for line in engine.log().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if all(row.get(k) == v for k, v in fields.items()):
            return True
    return False


class Breakers(unittest.TestCase):
    def test_by_hand(self):
        chain = Chain(self, ["risk"])
        risk = chain["risk"]
        seen = []
        for what, state, mode, reason in (("force-open", "forced_open", "forced_open", "forced"),
                                          ("metrics-only", "closed", "metrics_only", "metrics_only"),
                                          ("disable", "disabled", "disabled", "disabled"),
                                          ("enable", "closed", "normal", "enabled"),
                                          ("reset", "closed", "normal", "reset")):
            before = "open" if seen and seen[-1][2] == "open" else "closed"
            change(risk, "limits", what)
            got = breaker(risk, "limits")
            self.assertEqual((got["state"], got["mode"]), (state, mode), what)
            seen.append(("limits", before, "open" if what == "force-open" else "closed", reason))
            self.assertEqual(got["transitions"][-1]["reason"], reason)
            answer = risk.get("/risk/limits")
            self.assertEqual(answer.status, 503 if what == "force-open" else 200, what)
            if what == "force-open":
                self.assertIn("Retry-After", answer.headers)
            wait_for(lambda: logged(risk, event="breaker", target="limits", reason=reason))
        wait_for(lambda: len([e for e in events(chain, "risk") if e[0] == "limits"]) == len(seen), 30)
        self.assertEqual([e for e in events(chain, "risk") if e[0] == "limits"], seen)
        text = risk.get("/metrics").body.decode()
        for line in ('keel_breaker_transitions_total{engine="risk",target="limits",from="closed",to="open"} 1\n',
                     'keel_breaker_rejected_total{engine="risk",target="limits",refused="true"} 1\n',
                     'keel_breaker_state{engine="risk",target="limits"} 1\n',
                     'keel_breaker_mode{engine="risk",target="limits"} 0\n',
                     'keel_breaker_permits_in_use{engine="risk",target="limits"} 0\n'):
            self.assertIn(line, text)
        self.assertEqual(risk.post("/hybrid/circuit-breakers/nothing/reset").status, 404)

    def test_by_itself(self):
        """A dependency's breaker opens; that its wait is over is told though nobody calls."""
        chain = Chain(self, ["risk", "strategy"], env=OPTIONS)
        strategy = chain["strategy"]
        got = breaker(strategy, "dep.peer.risk")
        self.assertEqual(got["window"]["kind"], "time")
        self.assertEqual((got["window"]["seconds"], got["window"]["min_calls"], got["permits"]["limit"]), (30, 10, 1))
        wait_for(lambda: strategy.get("/health").json["dependencies"]["risk"]["status"] == "healthy", 30)
        chain["risk"].kill()

        ids = itertools.count()

        def opened():
            strategy.ask("POST", "/orders", {"client_order_id": f"o{next(ids)}", "symbol": "BTCUSDT", "side": "BUY",
                                             "quantity": "1", "price": "100"})
            return breaker(strategy, "dep.peer.risk")["transitions"]
        wait_for(opened, 30)
        told = [("dep.peer.risk", "closed", "open", "consecutive_failures"),
                ("dep.peer.risk", "open", "half_open", "wait_over")]
        wait_for(lambda: [e for e in events(chain, "strategy") if e[0] == "dep.peer.risk"][:2] == told, 30)
        chain["risk"].start()

        def closed():
            opened()
            return breaker(strategy, "dep.peer.risk")["state"] == "closed"
        wait_for(closed, 60, every=0.1)
        wait_for(lambda: logged(strategy, event="breaker", target="dep.peer.risk", to="closed"))


class Options(unittest.TestCase):
    def test_what_is_wrong_stops_the_start(self):
        for args, said in ((["--breaker-window=count:0"], "count:N"),
                           (["--breaker-window=time:601s"], "time:Ns"),
                           (["--breaker-failure-rate=1.5"], "breaker_failure_rate"),
                           (["--breaker-mode=off"], "normal|disabled|metrics_only"),
                           (["--breaker-permits=9"], "breaker_permits"),
                           (["--breaker-window=count:30", "--breaker-min-calls=31"], "breaker_min_calls=31"),
                           (["--breaker-recovery-ms=5000", "--breaker-recovery-max-ms=10"], "breaker_recovery_max_ms")):
            got = subprocess.run([os.path.join(BIN, "risk-engine"), "--check-config", *args], capture_output=True,
                                 text=True, timeout=60)
            self.assertEqual(got.returncode, 1, args)
            self.assertIn(said, got.stderr, args)
            self.assertEqual(got.stderr.count("\n"), 1, got.stderr)


class Performance(unittest.TestCase):
    def check_period(self, row, what):
        self.assertEqual(set(row["outcomes"]), OUTCOMES, what)
        self.assertEqual(row["errors"], row["outcomes"]["failure"] + row["outcomes"]["timeout"], what)
        values = [row[q] for q in QUANTILES]
        self.assertEqual(values, sorted(values), what)
        self.assertLessEqual(row["mean_us"], row["max_us"] + 0.001, what)
        self.assertLessEqual(row["over_target"], row["count"], what)
        if row["within_target"] is not None:
            self.assertTrue(0 <= row["within_target"] <= 1, what)

    def check_row(self, row, what):
        self.assertEqual(row["count"], sum(row["outcomes"].values()), what)
        for field in ("rejected", "shed", "timeouts", "in_flight", "errors", "over_target"):
            self.assertIsInstance(row[field], int, f"{what}.{field}")
        for period in ("all", "last_10s", "last_60s"):
            self.check_period(row[period], f"{what}.{period}")
        self.assertLessEqual(row["last_10s"]["count"], row["last_60s"]["count"], what)
        self.assertLessEqual(row["last_60s"]["count"], row["all"]["count"], what)
        self.assertEqual(row["all"]["outcomes"], row["outcomes"], what)

    def test_the_whole_row(self):
        chain = Chain(self, ["risk"])
        risk = chain["risk"]
        for _ in range(20):
            self.assertEqual(risk.get("/risk/limits").status, 200)
        self.assertEqual(risk.get("/risk/limits?no_such=1").status, 400)
        change(risk, "limits", "force-open")
        self.assertEqual(risk.get("/risk/limits").status, 503)
        change(risk, "limits", "enable")
        wait_for(lambda: risk.get("/hybrid/performance").json["operations"]["loop_lag"]["count"] > 0, 30)
        got = risk.get("/hybrid/performance").json
        for name, row in [*got["operations"].items(), *got["dependencies"].items()]:
            self.check_row(row, name)
            self.assertIn("target_us", row)
        limits = got["operations"]["limits"]
        self.assertEqual((limits["outcomes"]["ok"] + limits["outcomes"]["slow"], limits["outcomes"]["client"],
                          limits["rejected"], limits["in_flight"]), (20, 1, 1, 0))
        self.assertGreaterEqual(limits["all"]["count"], 21)
        self.assertGreater(limits["all"]["p50_us"], 0)
        self.assertIsNotNone(limits["all"]["within_target"])
        for period in ("all", "last_10s", "last_60s"):
            self.check_period(got["overall"][period], f"overall.{period}")
        own = ("loop_lag", "queue_delay")
        self.assertEqual(got["overall"]["all"]["count"],
                         sum(r["all"]["count"] for n, r in got["operations"].items() if n not in own))
        self.assertTrue({"critical", "priority", "normal"} <= set(re.findall("critical|priority|normal",
                                                                             json.dumps(got["bus"]))))
        for member in ("load", "fallbacks"):
            self.assertIsInstance(got[member], dict)
        cpu = got["hardware"]["cpu"]
        self.assertEqual((list(got["hardware"]), cpu["cores"]), (["cpu"], os.cpu_count()))
        self.assertTrue(1 <= cpu["usable"] <= len(os.sched_getaffinity(0)), cpu)
        self.assertTrue(cpu["threads"] >= 2 and 1 <= cpu["bulk_threads"] <= cpu["threads"], cpu)
        text = risk.get("/metrics").body.decode()
        self.assertIn('keel_op_duration_seconds_count{engine="risk",op="loop_lag"}', text)


if __name__ == "__main__":
    unittest.main(verbosity=2)
