"""What happens while something is away: Redis, the risk engine, everything else; and how the engines come back."""
import os
import signal
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from books import all_fills, settle, verify  # noqa: E402
from keeltest import ENGINES, HYBRID, Chain, heard, wait_for  # noqa: E402

CHAIN = ["portfolio", "risk", "strategy", "features", "marketdata"]


def ingest(chain, symbol, bid, ask, size="5"):
    stamp = int(time.time() * 1e9)
    got = chain["marketdata"].post("/data/ingest", {"data": [{
        "symbol": symbol, "data_type": "quote", "source": "internal", "timestamp": stamp,
        "data": {"bid": bid, "bid_size": size, "ask": ask, "ask_size": size}}]})
    assert got.status == 200, got


def order(chain, oid, side="BUY", quantity="0.01", price="61660", **more):
    body = {"client_order_id": oid, "symbol": "BTCUSDT", "side": side, "quantity": quantity, "price": price}
    body.update(more)
    return wait_for(lambda: not (got := chain["strategy"].ask("POST", "/orders", body)).is_busy() and got)


def executed(chain, oid, **more):
    """An order that trades; while risk is silent or the answer is not there yet it is repeated."""
    return wait_for(lambda: (got := order(chain, oid, **more)).status not in (202, 503) and got)


def quoted(chain):
    """A fresh quote that all who act on one have seen."""
    heard(chain, "quote", lambda: ingest(chain, "BTCUSDT", "61659.7", "61659.8"), ("strategy", "risk", "portfolio"))


class RedisAway(unittest.TestCase):
    def test_every_engine_degrades_and_recovers(self):
        chain = Chain(self, list(ENGINES))
        for e in chain.engines.values():
            # Redis is known from the first answer on; a peer that was started later, when it is asked again.
            self.assertEqual(e.get("/health").json["dependencies"]["redis"]["status"], "healthy", e.name)
            wait_for(lambda e=e: e.get("/health").json["status"] == "healthy")
        chain.redis.kill()
        for e in chain.engines.values():
            wait_for(lambda e=e: e.get("/health").json["status"] == "degraded")
            self.assertEqual(e.get("/health").status, 200)
        got = chain["portfolio"].get("/portfolios/main")
        self.assertEqual(got.status, 200, got)
        chain.redis.start()
        for e in chain.engines.values():
            wait_for(lambda e=e: e.get("/health").json["status"] == "healthy")
            self.assertTrue(e.get("/health").json["messagebus_connected"])

    def test_paused_redis_is_away_too(self):
        # An engine without peers: one that is away would degrade it, too.
        chain = Chain(self, ["marketdata"])
        self.assertEqual(chain["marketdata"].get("/health").json["status"], "healthy")
        chain.redis.kill(signal.SIGSTOP)
        try:
            wait_for(lambda: chain["marketdata"].get("/health").json["status"] == "degraded")
        finally:
            chain.redis.kill(signal.SIGCONT)
        wait_for(lambda: chain["marketdata"].get("/health").json["status"] == "healthy")

    def test_orders_filled_while_it_is_away_arrive_later(self):
        chain = Chain(self, CHAIN)
        quoted(chain)
        self.assertEqual(executed(chain, "before").json["status"], "executed")
        chain.redis.kill()
        got = order(chain, "during")
        self.assertIn(got.status, (200, 202, 422, 503), got)
        chain.redis.start()
        p = settle(chain)
        verify(self, p)


class RiskAway(unittest.TestCase):
    def test_nothing_that_increases_risk_is_executed(self):
        chain = Chain(self, CHAIN)
        quoted(chain)
        self.assertEqual(executed(chain, "a", quantity="0.02").json["status"], "executed")
        wait_for(lambda: len(all_fills(chain["strategy"])) == 1)
        chain["risk"].kill()
        quoted(chain)
        got = order(chain, "b", quantity="0.01")
        self.assertEqual(got.status, 503, got)
        self.assertIn("Retry-After", got.headers)
        got = order(chain, "c", side="SELL", quantity="0.05", price="61659")
        self.assertEqual(got.status, 503, "more than the position would turn it round")
        got = executed(chain, "d", side="SELL", quantity="0.01", price="61659")
        self.assertEqual((got.status, got.json.get("fallback")), (200, True), got)
        self.assertTrue(got.json["fallback_reason"])
        if HYBRID.lower() not in ("false", "0", "no", "off"):
            shown = chain["strategy"].get("/hybrid/performance").json
            counts = shown["fallbacks"]
            self.assertEqual([(a["name"], a["as_fallback"]) for a in shown["alternatives"]["order"]], [("reduce_only", 1)])
            self.assertIn("risk", shown["alternatives"]["order"][0]["last_reason"])
            self.assertEqual({n: k for n, k in counts.items() if k}, {"order.reduce_only": 1})
            closed = "/hybrid/circuit-breakers/order.reduce_only/"
            self.assertEqual(chain["strategy"].post(closed + "force-open").status, 200)
            got = order(chain, "f", side="SELL", quantity="0.01", price="61659")
            self.assertEqual(got.status, 503, "an alternative behind an open circuit is none")
            self.assertEqual(chain["strategy"].post(closed + "enable").status, 200)
        self.assertEqual(len(all_fills(chain["strategy"])), 2)
        chain["risk"].start()
        wait_for(lambda: chain["strategy"].get("/health").json["status"] == "healthy")
        p = settle(chain)
        verify(self, p)

        def accepted():
            quoted(chain)
            return order(chain, "e").status == 200
        wait_for(accepted, 60, 0.2)


class DeadLetters(unittest.TestCase):
    def test_a_durable_one_holds_its_portfolio_to_reducing(self):
        chain = Chain(self, CHAIN)
        quoted(chain)
        header = "1 main sim strategy.critical.fill hybrid-strategy-engine elsewhere 1 main 1 1 1 1 -"
        got = chain.redis.command("XADD", "nautilus-strategy-hybrid-streams:critical", "*", "h", header, "p", '{"trade_id":7}')
        self.assertTrue(got.startswith(b"$"), got)
        wait_for(lambda: chain["portfolio"].get("/health").status == 503)
        wait_for(lambda: chain["risk"].get("/risk/trading-state?portfolio_id=main").json["state"] == "REDUCING")
        got = executed(chain, "more")
        self.assertEqual((got.status, got.json["code"]), (422, "risk_denied"), got)
        self.assertIn("REDUCING_ONLY", [d["code"] for d in got.json["denials"]])
        for name in ("portfolio", "risk"):
            for letter in chain[name].get("/bus/dead").json["dead"]:
                self.assertEqual(chain[name].post(f"/bus/dead/{letter['id']}/discard").status, 200)
        wait_for(lambda: chain["portfolio"].get("/health").status == 200)
        free = {"state": "ACTIVE", "portfolio_id": "main", "reason": "the letter was looked at"}
        self.assertEqual(chain["risk"].call("PUT", "/risk/trading-state", free).status, 200)

        def accepted():
            quoted(chain)
            return order(chain, "again").status == 200
        wait_for(accepted, 60, 0.2)


class Mixed(unittest.TestCase):
    """One run with alternating plain and hybrid engines; the domain's answers are the same."""

    def test_alternating(self):
        chain = Chain(self, CHAIN, env={"ENABLE_HYBRID": "true"}, plain=("risk", "features"))
        for name in CHAIN:
            health = chain[name].get("/health").json
            plain = name in ("risk", "features")
            self.assertEqual(health["hybrid_integration"], not plain)
            got = chain[name].get("/hybrid/performance")
            if plain:
                self.assertEqual(got.status, 404)
                self.assertIn("ENABLE_HYBRID", got.json["detail"])
                self.assertEqual(health["circuit_breaker"], {"state": "disabled", "failure_count": 0, "last_failure_time": None})
            else:
                self.assertEqual(got.status, 200)
                self.assertIn("operations", got.json)
                self.assertIn(health["circuit_breaker"]["state"], ("closed", "open", "half_open"))
        quoted(chain)
        got = executed(chain, "m1")
        self.assertEqual(got.json["status"], "executed", got)
        p = settle(chain)
        verify(self, p)
        self.assertEqual(len(p["fills"]), 1)


if __name__ == "__main__":
    unittest.main(verbosity=2)
