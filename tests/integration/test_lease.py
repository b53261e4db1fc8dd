"""Two instances of an engine on one data directory: one at work, one standing by, whatever is killed or stopped."""
import os
import signal
import socket
import sys
import threading
import time
import unittest
from decimal import Decimal

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from books import settle, venue_trades, verify  # noqa: E402
from keeltest import HYBRID, Chain, Engine, Folder, Redis, free_port, wait_for  # noqa: E402

FENCED = 75


def health(engine):
    try:
        return engine.get("/health").json
    except OSError:
        return {}


def is_ready(engine):
    try:
        return engine.get("/health/ready").status == 200
    except OSError:
        return False


def lease(redis, engine="strategy"):
    """(holder, epoch) as Redis has them; None without."""
    parts = redis.command("GET", f"nautilus-{engine}-hybrid-lease").decode().split("\r\n")
    return (parts[1].split()[0], int(parts[1].split()[1])) if parts[0] not in ("$-1", "") else None


class Pair(unittest.TestCase):
    def start(self, lease_ms):
        self.args = ("--lease-ms", str(lease_ms))
        self.chain = Chain(self, ["portfolio", "risk", "strategy", "marketdata"], args={"strategy": self.args})
        self.first = self.chain["strategy"]
        self.second = self.instance()

    def instance(self):
        env = {k: v for k, v in self.first.env.items() if k.endswith("_URL") or k in ("KEEL_MODE", "ENABLE_HYBRID")}
        e = Engine("strategy", self.chain.folder, self.chain.redis.url, env, self.args, free_port())
        self.addCleanup(e.stop)
        e.start(ready=False)
        wait_for(lambda: health(e).get("role") == "standby", 20)
        return e

    def quote(self):
        got = self.chain["marketdata"].post("/data/ingest", {"data": [{
            "symbol": "BTCUSDT", "data_type": "quote", "source": "internal", "timestamp": int(time.time() * 1e9),
            "data": {"bid": "61659.7", "bid_size": "50", "ask": "61659.8", "ask_size": "50"}}]})
        self.assertEqual(got.status, 200, got)

    def order(self, engine, oid):
        return engine.post("/orders", {"client_order_id": oid, "symbol": "BTCUSDT", "side": "BUY", "quantity": "0.001",
                                       "price": "61660"})

    def outcome(self, engine, oid):
        """Asks again under the same id until there is one: what was refused, or is unknown, may be repeated."""
        def known():
            got = self.order(engine, oid)
            return got if got.status in (200, 201, 422) and got.json.get("status") != "unknown" else None
        return wait_for(known, 30)

    def filled(self, engine, prefix):
        """The id of an order that was filled; before the first quote has come none is."""
        ids = (f"{prefix}{k}" for k in range(10000))

        def one():
            self.quote()
            oid = next(ids)
            return oid if self.outcome(engine, oid).json.get("status") == "executed" else None
        return wait_for(one, 30, 0.1)

    def agree(self, engine, executed):
        """Journal, ledger and venue have the same fills, and each order that was executed has exactly one."""
        self.chain.engines["strategy"] = engine
        # Less than the 30 s after which risk drops a reservation without an order: one that was fenced asked for none.
        p = settle(self.chain, 25)
        verify(self, p)
        fills = [f["client_order_id"] for f in p["fills"]]
        self.assertEqual(len(fills), len(set(fills)), "an order was filled twice")
        self.assertLessEqual(set(executed), set(fills))
        self.assertEqual(engine.stop(), 0)
        mine = {f["trade_id"]: (f["client_order_id"], Decimal(f["quantity"]), Decimal(f["price"])) for f in p["fills"]}
        self.assertEqual(mine, venue_trades(self.chain.folder), "the venue's evidence and the journal differ")

    def test_standby_takes_over_from_one_that_was_killed(self):
        # A lease as long as can be: after a crash nobody waits for it.
        self.start(60000)
        standby = self.second.get("/health")
        self.assertEqual((standby.status, standby.json["status"]), (200, "degraded"), standby)
        self.assertIn("standby", standby.json["dependencies"]["lease"]["detail"])
        ready = self.second.get("/health/ready")
        self.assertEqual(ready.status, 503)
        self.assertIn("standby", ready.json["reason"])
        for got in (self.second.get("/orders"), self.order(self.second, "refused"),
                    self.second.get("/bus/outbox?stream=nautilus-strategy-hybrid-streams")):
            self.assertEqual((got.status, got.json["code"]), (503, "standby"), got)
            self.assertIn("Retry-After", got.headers)
        self.assertEqual(self.second.get("/metrics").status, 200)

        sent, epoch = [], health(self.first)["fencing_epoch"]

        def place():
            for k in range(1000):
                try:
                    self.order(self.first, f"o{k}")
                    sent.append(f"o{k}")
                except OSError:
                    return
        warm = self.filled(self.first, "warm")
        thread = threading.Thread(target=place)
        thread.start()
        wait_for(lambda: len(sent) >= 5)
        self.first.kill()
        thread.join()
        wait_for(lambda: is_ready(self.second), 30)
        self.assertGreater(health(self.second)["fencing_epoch"], epoch)
        self.assertEqual(self.second.get("/orders/refused").status, 404)
        # The client repeats everything, the one without an answer included: nothing happens twice.
        for k in range(len(sent) + 1):
            self.outcome(self.second, f"o{k}")
        self.agree(self.second, [warm, self.filled(self.second, "more")])

    def test_one_that_was_stopped_finds_itself_fenced(self):
        self.start(4000)
        ids = [self.filled(self.first, "before")]
        wait_for(lambda: lease(self.chain.redis))
        holder, epoch = lease(self.chain.redis)
        self.first.kill(signal.SIGSTOP)
        self.addCleanup(self.first.kill, signal.SIGCONT)
        body = (b'{"client_order_id":"late","symbol":"BTCUSDT","side":"BUY","quantity":"0.001","price":"61660"}')
        late = socket.create_connection(("127.0.0.1", self.first.port))
        self.addCleanup(late.close)
        late.sendall(b"POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                     b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        wait_for(lambda: is_ready(self.second), 60)
        self.assertGreater(health(self.second)["fencing_epoch"], epoch)
        ids.append(self.filled(self.second, "between"))
        self.first.kill(signal.SIGCONT)
        self.assertEqual(self.first.p.wait(30), FENCED, self.first.log()[-2000:])
        self.assertIn("fenced", self.first.log())
        self.assertEqual(self.second.get("/orders/late").status, 404)

        # Started anew it stands by, and takes over in turn; a lease that Redis lost in between turns no count back.
        self.chain.redis.command("DEL", "nautilus-strategy-hybrid-lease")
        wait_for(lambda: lease(self.chain.redis))
        self.assertEqual(lease(self.chain.redis)[1], health(self.second)["fencing_epoch"])
        self.first.start(ready=False)
        wait_for(lambda: health(self.first).get("role") == "standby", 20)
        epoch = health(self.second)["fencing_epoch"]
        self.second.kill()
        wait_for(lambda: is_ready(self.first), 30)
        self.assertGreater(health(self.first)["fencing_epoch"], epoch)
        ids.append(self.filled(self.first, "after"))
        self.agree(self.first, ids)


@unittest.skipIf(HYBRID != "true", "the guard has no part in it")
class Alone(unittest.TestCase):
    def test_redis_decides_nothing_for_one_that_is_alone(self):
        folder = Folder(self).path
        redis = Redis(folder).start()
        self.addCleanup(redis.stop)
        one = Engine("risk", folder, redis.url, args=("--lease-ms", "1000"))
        self.addCleanup(one.stop)
        one.start()
        epoch = health(one)["fencing_epoch"]
        redis.kill()
        # Longer than the lease: it has nobody to lose it to, and the store says so.
        wait_for(lambda: health(one)["dependencies"]["redis"]["detail"] not in (
            None, "away for 0 s", "away for 1 s"), 20)
        got = one.post("/risk/limits", {"limit_id": "own", "limit_type": "notional", "limit_value": 1000,
                                        "enabled": True, "action": "deny"})
        self.assertLess(got.status, 300, got)
        self.assertEqual(health(one)["role"], "active")
        one.kill()
        one.start()  # without Redis, and without waiting for the lease of the one that was killed
        self.assertGreater(health(one)["fencing_epoch"], epoch)
        epoch = health(one)["fencing_epoch"]
        redis.start()
        wait_for(lambda: (lease(redis, "risk") or ("", 0))[1] == epoch, 20)
        self.assertIn("own", one.get("/risk/limits?limit=100").body.decode())

    def test_another_system_on_another_redis_is_left_alone(self):
        folder = Folder(self).path
        ours, theirs = Redis(folder).start(), Redis(os.path.join(folder, "theirs")).start()
        for r in (ours, theirs):
            self.addCleanup(r.stop)
        one = Engine("risk", folder, ours.url, args=("--lease-ms", "1000"))
        two = Engine("risk", folder, theirs.url, args=("--lease-ms", "1000"))
        for e in (one, two):
            self.addCleanup(e.stop)
        one.start()
        two.start(ready=False)
        wait_for(lambda: health(two).get("role") == "standby", 20)
        beats = ours.command("GET", "nautilus-risk-hybrid-lease")
        # Several leases long: the value in our Redis moves on, theirs stays empty.
        for _ in range(6):
            beats = wait_for(lambda b=beats: next((x for x in [ours.command("GET", "nautilus-risk-hybrid-lease")]
                                                   if x != b), None), 20)
        self.assertEqual((health(one)["role"], health(two)["role"]), ("active", "standby"))
        self.assertEqual(two.stop(), 0)
        self.assertEqual(one.stop(), 0)
        # One that had to begin without the lock, of which nothing is left, in no Redis either: its lock stays free.
        with open(os.path.join(folder, "risk", "risk.lock"), "w") as f:
            f.write("1 nowhere/1/x unlocked before/1/y\n")
        two.start()
        self.assertEqual(health(two)["role"], "active")


if __name__ == "__main__":
    unittest.main(verbosity=2)
