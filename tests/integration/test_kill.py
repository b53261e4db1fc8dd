"""kill -9 at random moments of a live session: no durable record lost, nothing executed twice, money exact."""
import os
import random
import sys
import time
import unittest
from decimal import Decimal

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from books import settle, venue_trades, verify  # noqa: E402
from keeltest import ENGINES, Chain, wait_for  # noqa: E402

NAMES = list(ENGINES)
VICTIMS = ["redis", "strategy", "risk", "portfolio", "marketdata"]
OTHERS = ["ml", "analytics", "factor", "websocket", "features"]
SEED = int(os.environ.get("KEEL_TEST_SEED", "20261122"))
START = 1767364200  # 2026-01-02T14:30:00Z


class Session:
    """A session that goes on whatever is killed: the feed is started again, an hour later by its own clock."""

    def __init__(self, test, fsync):
        self.chain = Chain(test, NAMES, fsync)
        self.feeds = 0
        for sid, kind, params in (
                ("trend", "ma_cross", {"fast": "sma_10", "slow": "sma_20", "notional": "2000", "time_in_force": "IOC"}),
                ("flow", "imbalance", {"threshold": 0.3, "notional": "4000", "max_position": "20000", "time_in_force": "IOC"}),
                ("patient", "rsi_reversion", {"rsi_low": 45, "rsi_high": 55, "notional": "1000", "time_in_force": "GTC",
                                              "price_offset_bps": 1, "max_age_s": 3})):
            s = self.chain["strategy"]
            for path, body in (("/strategies", {"strategy_id": sid, "strategy_name": sid, "kind": kind, "spec": "1s",
                                                "portfolio_id": "main", "parameters": params}),
                               (f"/strategies/{sid}/deploy", {}), (f"/strategies/{sid}/start", {})):
                got = s.post(path, body)
                test.assertLess(got.status, 300, got)
        self.feed()

    def feed(self):
        self.feeds += 1
        start = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(START + 3600 * self.feeds))
        wait_for(lambda: self.chain["marketdata"].post("/feeds", {
            "kind": "simulate", "seed": self.feeds, "duration_s": 3000, "speed": 20, "start": start}).status < 300)

    def kill(self, victim):
        if victim == "redis":
            self.chain.redis.kill()
        else:
            self.chain[victim].kill()

    def revive(self, victim):
        if victim == "redis":
            self.chain.redis.start()
        else:
            self.chain[victim].start()
            if victim == "marketdata":
                self.feed()

    def end(self):
        md = self.chain["marketdata"]
        for f in md.get("/feeds").json["feeds"]:
            if f["state"] == "STARTED":
                md.call("DELETE", f"/feeds/{f['feed_id']}")
        for sid in ("trend", "flow", "patient"):
            self.chain["strategy"].post(f"/strategies/{sid}/stop")
        wait_for(lambda: self.chain["strategy"].call("DELETE", "/orders?portfolio_id=main").status < 300)


class Kill(unittest.TestCase):
    def live(self, fsync, moments, flush_at=None):
        rng = random.Random(SEED + moments)
        s = Session(self, fsync)
        wait_for(lambda: len(s.chain["strategy"].get("/fills?after=0&limit=5").json["fills"]) >= 5, 90)
        for k in range(moments):
            time.sleep(rng.uniform(0.05, 0.6))
            if k == flush_at:
                self.assertTrue(s.chain.redis.command("FLUSHALL").startswith(b"+OK"))
                continue
            victims = [VICTIMS[k % len(VICTIMS)]]
            if rng.random() < 0.2:
                victims.append(rng.choice([v for v in VICTIMS + OTHERS if v not in victims]))
            for v in victims:
                s.kill(v)
            time.sleep(rng.uniform(0.0, 0.3))
            for v in victims:
                s.revive(v)
        time.sleep(1.0)
        s.end()
        p = settle(s.chain)
        verify(self, p)
        self.assertGreater(len(p["fills"]), 20)
        for e in s.chain.engines.values():
            self.assertEqual(e.stop(), 0, e.name)
        mine = {f["trade_id"]: (f["client_order_id"], Decimal(f["quantity"]), Decimal(f["price"])) for f in p["fills"]}
        self.assertEqual(mine, venue_trades(s.chain.folder), "the venue's evidence and the journal differ")

    def test_everysec_and_flushall(self):
        self.live("everysec", 24, flush_at=12)

    def test_always(self):
        self.live("always", 20)


if __name__ == "__main__":
    unittest.main(verbosity=2)
