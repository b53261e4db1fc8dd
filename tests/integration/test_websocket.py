"""The websocket engine from outside: the streams, one stalled client among 200, the drain, /system and the allow-list of
/api. Handshake and framing are in test_framing.py, the frames' fields in test_bodies.py."""
import os
import selectors
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from keeltest import ENGINES, Chain, wait_for  # noqa: E402
from wsclient import Client, Refused, stamped_frames  # noqa: E402

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z"
TOPIC = "marketdata.quote:BTCUSDT"


def stamp(ns):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + ".%09dZ" % (ns % 10**9)


def quote(i=0, symbol="BTCUSDT", at=None):
    return {"symbol": symbol, "data_type": "quote", "source": "internal", "timestamp": stamp(at or time.time_ns()),
            "data": {"bid": f"{61659 + i % 100}.7", "bid_size": "2.311", "ask": f"{61660 + i % 100}.8", "ask_size": "0.874"}}


class Stream(unittest.TestCase):
    """With the bus and marketdata before it."""

    def setUp(self):
        self.chain = Chain(self, ["marketdata", "websocket"], env={"BUFFER_INTERVAL_MS": "5", "WS_STALLED_MS": "2000"})
        self.ws, self.md = self.chain["websocket"], self.chain["marketdata"]
        wait_for(lambda: self.ws.get("/health").json["messagebus_connected"])

    def client(self, *args, **more):
        c = Client(self.ws.port, *args, **more)
        self.addCleanup(c.close)
        return c

    def ingest(self, *items):
        got = self.md.post("/data/ingest", {"data": list(items)})
        self.assertEqual(got.status, 200, got)

    def follow(self):
        """A client that has seen a first quote: marketdata is being read."""
        c = self.client()
        c.say({"type": "subscribe", "topics": ["marketdata.quote"]})
        c.until(lambda m: m["type"] == "subscription")
        self.ingest(quote())
        first = c.until(lambda m: m["type"] == "market_data")
        self.assertEqual(first["topic"], TOPIC)
        return c, first

    def test_frames(self):
        c, first = self.follow()
        at = time.time_ns()
        self.ingest(quote(0, at=at))
        got = c.recv()
        self.assertRegex(got.pop("message_id"), r"^c\d+-\d+$")
        self.assertEqual(got, {"type": "market_data", "topic": TOPIC, "timestamp": stamp(at), "epoch": first["epoch"],
                               "seq": first["seq"] + 1,
                               "data": {"symbol": "BTCUSDT", "bid": "61659.7", "bid_size": "2.311", "ask": "61660.8",
                                        "ask_size": "0.874"}})
        # the symbol's own stream: what is known at once, then each change
        m = self.client("/ws/market-data/btcusdt")
        now = m.recv()
        self.assertEqual((now["message_type"], now["symbol"], now["seq"], now["data"]["price"]),
                         ("market_data", "BTCUSDT", got["seq"], None))
        self.assertEqual(now["undefined"], {"price": "no trade yet"})
        at = time.time_ns()
        self.ingest({"symbol": "BTCUSDT", "data_type": "trade", "source": "internal", "timestamp": stamp(at),
                     "data": {"price": "61660.1", "size": "0.25"}})
        self.assertEqual(m.recv(), {"message_type": "market_data", "symbol": "BTCUSDT", "epoch": first["epoch"],
                                    "seq": now["seq"] + 1, "timestamp": stamp(at),
                                    "data": {"symbol": "BTCUSDT", "price": 61660.1, "bid": 61659.7, "ask": 61660.8,
                                             "volume": 0.25, "timestamp": stamp(at)}})
        channels = {t["topic"]: t for t in self.ws.get("/topics").json["topics"]}
        self.assertEqual((channels[TOPIC]["seq"], channels[TOPIC]["subscribers"]), (got["seq"], 1))
        self.assertEqual(channels["marketdata.trade:BTCUSDT"]["seq"], 1)
        # the drain: 1001 to each, and an exit that says all went well
        self.ws.p.terminate()
        for x in (c, m):
            while x.recv() is not None:
                pass
            self.assertEqual((x.close_code, x.close_reason), (1001, "going_away"))
            x.close()
        self.assertEqual(self.ws.p.wait(60), 0)

    def test_one_stalled_client_among_200(self):
        """The other 199 miss nothing, p99 < 40 ms; the stalled one: a gap with the exact count, then 1013."""
        self.follow()[0].close()
        clients = [self.client() for _ in range(199)]
        stalled = self.client(receive_buffer=4096)
        start = None
        for c in clients + [stalled]:
            c.say({"type": "subscribe", "topics": [TOPIC]})
            start = c.until(lambda m: m["type"] == "subscription")["seq"]
        # What is read is kept with its time and looked at later: 199 streams to parse would delay one another.
        got, done = [[(0, c.buf)] for c in clients], threading.Event()

        def read():
            with selectors.DefaultSelector() as sel:
                for i, c in enumerate(clients):
                    c.s.setblocking(False)
                    sel.register(c.s, selectors.EVENT_READ, i)
                while not done.is_set():
                    for key, _ in sel.select(0.2):
                        data = key.fileobj.recv(1 << 20)
                        got[key.data].append((time.time_ns(), data))
        reader = threading.Thread(target=read)
        reader.start()
        try:
            rounds, each, begun = 75, 16, time.monotonic()
            for r in range(rounds):
                wait = begun + r * 0.1 - time.monotonic()
                if wait > 0:
                    time.sleep(wait)  # the pace of the feed
                at = time.time_ns()
                self.ingest(*[quote(i, at=at) for i in range(each)])  # the stamp says when it was handed over
            last = start + rounds * each
            end = b'"seq":%d}' % last
            wait_for(lambda: all(end in b"".join(data for _, data in chunks[-3:]) for chunks in got), 120)
        finally:
            done.set()
            reader.join()
        late = []
        for chunks in got:
            frames = list(stamped_frames(chunks))
            self.assertEqual([seq for _, _, seq in frames], list(range(start + 1, last + 1)))
            late += [read_at - sent_at for read_at, sent_at, _ in frames]
        late.sort()
        p50, p99 = [late[len(late) * q // 100] / 1e6 for q in (50, 99)]
        print(f"delivery to 199 clients beside a stalled one: {len(late)} frames, p50 {p50:.1f} ms, p99 {p99:.1f} ms, "
              "from the feed's request to the client's read")
        got = []
        while (m := stalled.recv()) is not None:
            got.append(m)
        self.assertEqual((stalled.close_code, stalled.close_reason), (1013, "slow_client"))
        gap = got.pop()
        self.assertEqual([m["seq"] for m in got], list(range(start + 1, start + 1 + len(got))))
        self.assertEqual((gap["type"], gap["topic"], gap["data"]["event"], gap["data"]["reason"]),
                         ("system", TOPIC, "gap", "slow_client"))
        self.assertEqual(gap["data"]["missed"], gap["seq"] - got[-1]["seq"])
        self.assertGreater(gap["data"]["missed"], 0)
        self.assertLessEqual(gap["seq"], last)
        if os.environ.get("KEEL_TIMED"):  # a figure of a quiet machine; the run above prints it everywhere
            self.assertLess(p99, 40)
        self.assertIn("keel_delivery_duration_seconds", self.ws.get("/metrics").body.decode())


class Browser(unittest.TestCase):
    """What a browser reaches through this engine, with tokens."""

    TOKENS = {"READ_TOKEN": "r" * 20, "TRADE_TOKEN": "t" * 20, "ADMIN_TOKEN": "a" * 20, "ENGINE_TOKEN": "e" * 20}

    def test_api_and_system(self):
        chain = Chain(self, ["portfolio", "risk", "strategy", "websocket"], env=self.TOKENS)
        ws = chain["websocket"]
        as_ = {k: {"Authorization": f"Bearer {v}"} for k, v in
               (("read", "r" * 20), ("trade", "t" * 20), ("admin", "a" * 20))}
        with self.assertRaises(Refused) as got:
            Client(ws.port)
        self.assertEqual(got.exception.status, 401)
        Client(ws.port, headers=as_["read"]).close()
        self.assertEqual(ws.get("/api/strategy/orders").status, 401)
        own = chain["strategy"].get("/orders?limit=5", as_["read"])
        self.assertEqual(ws.get("/api/strategy/orders?limit=5", as_["read"]).body, own.body)
        self.assertEqual(ws.get("/api/portfolio/portfolios/main", as_["read"]).json["portfolio_id"], "main")
        missing = ws.get("/api/strategy/orders/none-such", as_["read"])
        self.assertEqual((missing.status, missing.headers["Content-Type"]), (404, "application/problem+json"))
        # the caller's scope holds, at both ends
        order = {"client_order_id": "b-1", "symbol": "BTCUSDT", "side": "BUY", "quantity": "1", "price": "10"}
        self.assertEqual(ws.call("POST", "/api/strategy/orders", order, as_["read"]).status, 403)
        got = ws.call("POST", "/api/strategy/orders", order, as_["trade"])
        self.assertEqual((got.status, got.json["code"]), (422, "risk_denied"), got)
        put = ws.call("PUT", "/api/risk/risk/trading-state", {"state": "ACTIVE", "reason": "x"}, as_["trade"])
        self.assertEqual(put.status, chain["risk"].call("PUT", "/risk/trading-state", {"state": "ACTIVE", "reason": "x"},
                                                        as_["trade"]).status)
        # only what is listed, and no way round it
        for path in ("/api/strategy/trading-state", "/api/risk/bus/dead", "/api/nobody/health", "/api/strategy/jobs/x"):
            self.assertEqual(ws.get(path, as_["admin"]).status, 404, path)
        for path in ("/api/portfolio/portfolios/..", "/api/portfolio/portfolios/%2e%2e/ledger"):
            self.assertEqual(ws.get(path, as_["admin"]).status, 400, path)
        up = {"portfolio", "risk", "strategy", "websocket"}

        def answering():
            """What is known once each that runs has answered in the time it is given."""
            got = ws.get("/system", as_["read"]).json
            return {n for n, e in got["engines"].items() if e["status"] == "answering"} == up and got
        system = wait_for(answering)
        self.assertEqual(set(system["engines"]), set(ENGINES))
        for n in up:
            self.assertEqual(system["engines"][n]["health"]["engine"], n)
            self.assertGreaterEqual(system["engines"][n]["age_ms"], 0)
        self.assertEqual((system["count"], system["available"]), (9, 4))


if __name__ == "__main__":
    unittest.main()
