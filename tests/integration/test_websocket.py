"""The websocket engine from outside: handshake and framing byte by byte, the streams as bodies.md has them, resuming,
one stalled client among 200, the drain, /system and the allow-list of /api."""
import re
import selectors
import socket
import sys
import os
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from keeltest import ENGINES, Chain, Engine, Folder, wait_for  # noqa: E402
from wsclient import BINARY, CLOSE, PING, PONG, TEXT, Client, Refused, frame  # noqa: E402

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z"
TOPIC = "marketdata.quote:BTCUSDT"


def stamp(ns):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + ".%09dZ" % (ns % 10**9)


def quote(i=0, symbol="BTCUSDT", at=None):
    return {"symbol": symbol, "data_type": "quote", "source": "internal", "timestamp": stamp(at or time.time_ns()),
            "data": {"bid": f"{61659 + i % 100}.7", "bid_size": "2.311", "ask": f"{61660 + i % 100}.8", "ask_size": "0.874"}}


class Protocol(unittest.TestCase):
    """One engine without a bus: what a client may send, and what comes back."""

    @classmethod
    def setUpClass(cls):
        cls.folder = Folder(cls)
        cls.e = Engine("websocket", cls.folder.path).start()

    @classmethod
    def addCleanup(cls, fn, *args):
        cls.addClassCleanup(fn, *args)

    @classmethod
    def tearDownClass(cls):
        assert cls.e.stop() == 0, cls.e.log()[-2000:]

    def client(self, **more):
        c = Client(self.e.port, **more)
        welcome = c.recv()
        self.assertEqual((welcome["type"], welcome["topic"], welcome["data"]["status"]), ("system", "connection", "connected"))
        self.assertEqual(welcome["message_id"], welcome["data"]["connection_id"] + "-1")
        self.assertRegex(welcome["timestamp"], STAMP)
        self.assertEqual(welcome["timestamp"], welcome["data"]["timestamp"])
        return c

    def ok(self, method, path, body=None):
        """Plain requests may be shed while the machine is busy; nothing happened then, and they are repeated."""
        def ask():
            got = self.e.call(method, path, body)
            return got.status != 503 and got
        got = wait_for(ask)
        self.assertEqual(got.status, 200, got)
        return got.json

    def refused(self, status, code, **more):
        with self.assertRaises(Refused) as got:
            Client(self.e.port, **more)
        self.assertEqual(got.exception.status, status, got.exception)
        self.assertIn(f'"code":"{code}"'.encode(), got.exception.body)
        return got.exception.headers

    def test_handshake(self):
        h = self.refused(426, "upgrade_required", headers={"Sec-WebSocket-Version": "8"})
        self.assertEqual((h["sec-websocket-version"], h["upgrade"]), ("13", "websocket"))
        self.refused(426, "upgrade_required", headers={"Upgrade": "h2c"})
        self.refused(426, "upgrade_required", headers={"Connection": "keep-alive"})
        self.refused(400, "bad_key", headers={"Sec-WebSocket-Key": None})
        self.refused(400, "bad_key", headers={"Sec-WebSocket-Key": "dGhlIHNhbXBsZQ=="})
        self.refused(403, "forbidden", headers={"Origin": "http://evil.example"})
        self.refused(403, "forbidden", headers={"Origin": "null"})
        self.refused(403, "forbidden", headers={"Host": "evil.example"})
        self.refused(400, "bad_symbol", path="/ws/market-data/BTC%20USDT")
        self.refused(404, "notfound", path="/ws/nothing")
        self.assertEqual(self.e.post("/ws/stream").status, 405)
        self.assertEqual(self.e.get("/ws/stream").status, 426)
        c = self.client(headers={"Origin": f"http://127.0.0.1:{self.e.port}", "Connection": "keep-alive, Upgrade",
                                 "Sec-WebSocket-Extensions": "permessage-deflate", "Upgrade": "WebSocket"})
        self.assertNotIn("sec-websocket-extensions", c.headers)
        c.close()

    def test_pipelined_with_the_handshake(self):
        c = self.client(first=frame(TEXT, b'{"type":"heartbeat"}') + frame(PING, b"now"))
        self.assertEqual(c.recv()["type"], "heartbeat")
        self.assertEqual(c.recv_frame(), (PONG, b"now"))

    def test_byte_by_byte_and_in_fragments(self):
        c = self.client()
        text = '{"type":"subscribe","topics":["user.é"]}'.encode()
        cut = text.index(b"\xc3") + 1  # inside the character
        whole = (frame(TEXT, text[:cut], fin=False) + frame(PING, b"between") + frame(0, b"", fin=False) +
                 frame(0, text[cut:]))
        for i in range(len(whole)):
            c.send(whole[i:i + 1])
        self.assertEqual(c.recv_frame(), (PONG, b"between"))
        got = c.recv()
        self.assertEqual((got["type"], got["topic"], got["data"]), ("subscription", "user.é", {"status": "subscribed", "topic": "user.é"}))

    def test_what_breaks_the_protocol(self):
        big = b'{"type":"heartbeat"}'.ljust(65536)
        for why, raw, code in [
                ("unmasked", frame(TEXT, b"{}", mask=None), 1002),
                ("reserved bit", frame(TEXT, b"{}", rsv=4), 1002),
                ("reserved opcode", frame(5, b""), 1002),
                ("ping in fragments", frame(PING, b"", fin=False), 1002),
                ("ping of 126", frame(PING, b"x" * 126), 1002),
                ("nothing to continue", frame(0, b"x"), 1002),
                ("a message in a message", frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002),
                ("length too long by form", frame(TEXT, b"{}", length=2), 1002),
                ("length too long by form", frame(TEXT, b"{}", length=8), 1002),
                ("close of one byte", frame(CLOSE, b"\x03"), 1002),
                ("close code 1005", frame(CLOSE, b"\x03\xed"), 1002),
                ("close code 2000", frame(CLOSE, b"\x07\xd0"), 1002),
                ("close reason", frame(CLOSE, b"\x03\xe8\xff"), 1007),
                ("not UTF-8", frame(TEXT, b"\xff"), 1007),
                ("not UTF-8, not yet whole", frame(TEXT, b"{\xc3(" + b" " * 300)[:12], 1007),
                ("binary", frame(BINARY, b"{}"), 1003),
                ("too big", frame(TEXT, big + b" "), 1009),
                ("too big, in fragments", frame(TEXT, big, fin=False) + frame(0, b" "), 1009),
                ("too big by its header alone", b"\x81\xff\x3f" + b"\xff" * 7 + b"\1\2\3\4", 1009)]:
            with self.subTest(why):
                c = self.client()
                c.send(raw)
                self.assertIsNone(c.recv())
                self.assertEqual(c.close_code, code)
                c.send(frame(CLOSE, code.to_bytes(2, "big")))
                self.assertTrue(c.at_eof())
        c = self.client()
        c.send(frame(TEXT, big))  # 64 KiB is allowed
        self.assertEqual(c.recv()["type"], "heartbeat")

    def test_close_is_answered(self):
        for payload in (b"", b"\x03\xe8", b"\x0f\xa0bye", b"\x03\xf4"):
            c = self.client()
            c.send(frame(CLOSE, payload) + frame(TEXT, b'{"type":"heartbeat"}'))
            self.assertEqual(c.recv_frame(), (CLOSE, payload[:2]))
            self.assertTrue(c.at_eof())

    def test_pings(self):
        c = self.client()
        for n in (0, 1, 125):
            c.send(frame(PING, b"x" * n))
            self.assertEqual(c.recv_frame(), (PONG, b"x" * n))
        c.send(frame(PONG, b"unasked"))
        c.say({"type": "heartbeat"})
        self.assertEqual(c.recv()["data"], {"status": "alive"})

    def test_errors_leave_the_connection_open(self):
        c = self.client()
        for text, code in [(b"{", "invalid_json"), (b"[]", "wrong_type"), (b"{}", "missing"),
                           (b'{"type":"dance"}', "not_allowed"), (b'{"type":"subscribe"}', "missing"),
                           (b'{"type":"heartbeat","x":1}', "unknown_field"),
                           (b'{"type":"subscribe","topics":["marketdata.nothing"]}', "bad_topic"),
                           (b'{"type":"subscribe","topics":["user.*.x"]}', "bad_topic"),
                           (b'{"type":"subscribe","topics":["user.x:"]}', "bad_topic"),
                           (b'{"type":"unsubscribe","topics":["user.x"]}', "not_subscribed"),
                           (b'{"type":"subscribe","topics":["user.x"],"resume":[]}', "wrong_type")]:
            c.send(frame(TEXT, text))
            got = c.recv()
            self.assertEqual(got["type"], "error", got)
            if code != "not_allowed":
                self.assertEqual(got["data"]["code"], code, text)
            self.assertTrue(got["data"]["detail"])
        c.say({"type": "heartbeat"})
        self.assertEqual(c.recv()["type"], "heartbeat")

    def test_topics_are_bounded(self):
        c = self.client()
        c.say({"type": "subscribe", "topics": [f"user.t{i}" for i in range(256)]})
        self.assertEqual({c.recv()["type"] for _ in range(256)}, {"subscription"})
        c.say({"type": "subscribe", "topics": ["user.t0", "user.more"]})
        self.assertEqual(c.recv()["type"], "subscription")  # it is there already
        self.assertEqual(c.recv()["data"]["code"], "too_many_topics")

    def test_broadcast_and_resume(self):
        def say(i):
            return self.ok("POST", "/broadcast", {"topic": "user.r", "data": {"i": i}, "message_type": "risk_alert"})
        epoch = say(1)["epoch"]
        for i in range(2, 11):
            say(i)
        c = self.client()
        c.say({"type": "subscribe", "topics": ["user.r:-"], "resume": {"user.r:-": {"epoch": epoch, "seq": 7}}})
        got = c.recv()
        self.assertEqual((got["epoch"], got["seq"]), (epoch, 7))
        self.assertEqual([(m["data"]["i"], m["seq"], m["type"]) for m in (c.recv() for _ in range(3))],
                         [(i, i, "risk_alert") for i in (8, 9, 10)])
        self.assertEqual(say(11)["recipients"], 1)
        self.assertEqual(c.recv()["seq"], 11)
        c.say({"type": "unsubscribe", "topics": ["user.r:-"]})
        self.assertEqual(c.recv()["data"]["status"], "unsubscribed")
        self.assertEqual(say(12)["recipients"], 0)
        # another epoch: what was missed cannot be known
        c.say({"type": "subscribe", "topics": ["user.*"], "resume": {"user.r:-": {"epoch": "other", "seq": 3}}})
        self.assertEqual((c.recv()["topic"], "seq"), ("user.*", "seq"))
        gap = c.recv()
        self.assertEqual((gap["type"], gap["topic"], gap["data"], gap["seq"]),
                         ("system", "user.r:-", {"event": "gap", "missed": None, "reason": "epoch"}, 12))
        # further back than what is kept
        for i in range(13, 301):
            say(i)
        late = self.client()
        late.say({"type": "subscribe", "topics": ["user.r"], "resume": {"user.r:-": {"epoch": epoch, "seq": 4}}})
        self.assertNotIn("seq", late.recv())
        gap = late.recv()
        self.assertEqual((gap["data"], gap["seq"]), ({"event": "gap", "missed": 40, "reason": "history"}, 44))
        self.assertEqual([late.recv()["seq"] for _ in range(256)], list(range(45, 301)))
        for topic in ("marketdata.quote", "user", "user.", "users.x", "user.x y"):
            got = wait_for(lambda: (a := self.e.post("/broadcast", {"topic": topic, "data": 1})).status != 503 and a)
            self.assertIn(got.status, (400, 403), topic)

    def test_lists(self):
        a, b = self.client(), self.client()
        a.say({"type": "subscribe", "topics": ["user.list"]})
        a.recv()
        page = self.ok("GET", "/connections?limit=1")
        self.assertEqual((page["count"], len(page["connections"])), (1, 1))
        rest = self.ok("GET", f"/connections?after={page['next']}")
        mine = [x for x in rest["connections"] if x["topics"] == ["user.list"]]
        self.assertEqual([(x["path"], x["received"], x["queued"]) for x in mine], [("/ws/stream", 1, 0)])
        self.assertIn("strategy.critical.fill", self.ok("GET", "/topics")["available"])
        b.close()

    def test_a_client_that_reads_late_gets_a_gap_and_goes_on(self):
        c = self.client(receive_buffer=4096)
        c.say({"type": "subscribe", "topics": ["user.late"]})
        c.recv()
        pad = "x" * 8000
        for _ in range(300):
            self.ok("POST", "/broadcast", {"topic": "user.late", "data": pad})
        first, got = 1, []
        while not got or "event" not in got[-1]["data"]:
            got.append(c.recv())
        gap = got.pop()
        self.assertEqual([m["seq"] for m in got], list(range(first, len(got) + 1)))
        self.assertEqual((gap["data"]["reason"], gap["data"]["missed"], gap["seq"]), ("slow_client", 300 - len(got), 300))
        self.assertGreater(gap["data"]["missed"], 0)
        self.ok("POST", "/broadcast", {"topic": "user.late", "data": 1})
        self.assertEqual(c.recv()["seq"], 301)


class Stream(unittest.TestCase):
    """With the bus and marketdata before it."""

    def setUp(self):
        self.chain = Chain(self, ["marketdata", "websocket"], env={"BUFFER_INTERVAL_MS": "5"})
        self.ws, self.md = self.chain["websocket"], self.chain["marketdata"]
        wait_for(lambda: self.ws.get("/health").json["messagebus_connected"])

    def ingest(self, *items):
        got = self.md.post("/data/ingest", {"data": list(items)})
        self.assertEqual(got.status, 200, got)

    def follow(self):
        """A client that has seen a first quote: marketdata is being read."""
        c = Client(self.ws.port)
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
        m = Client(self.ws.port, "/ws/market-data/btcusdt")
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
        self.assertEqual(self.ws.p.wait(10), 0)

    def test_one_stalled_client_among_200(self):
        """The other 199 miss nothing, p99 < 40 ms; the stalled one: a gap with the exact count, then 1013."""
        self.follow()[0].close()
        clients = [Client(self.ws.port) for _ in range(199)]
        stalled = Client(self.ws.port, receive_buffer=4096)
        start = None
        for c in clients + [stalled]:
            c.say({"type": "subscribe", "topics": [TOPIC]})
            start = c.until(lambda m: m["type"] == "subscription")["seq"]
        seen = [[] for _ in clients]
        late, done = [], threading.Event()

        def read():
            sel = selectors.DefaultSelector()
            rest = [c.buf for c in clients]
            for i, c in enumerate(clients):
                c.s.setblocking(False)
                sel.register(c.s, selectors.EVENT_READ, i)
            pattern = re.compile(rb'"ask_size":"0\.(\d{4})7"\},"timestamp":"[^"]*","epoch":"[^"]*","seq":(\d+)\}')
            while not done.is_set():
                for key, _ in sel.select(0.2):
                    i = key.data
                    data = rest[i] + key.fileobj.recv(1 << 20)
                    now, end = time.monotonic_ns(), 0
                    for m in pattern.finditer(data):
                        seen[i].append(int(m[2]))
                        late.append(now - sent[int(m[1]) - 1000])
                        end = m.end()
                    rest[i] = data[end:]

        sent = {}
        reader = threading.Thread(target=read)
        reader.start()
        try:
            rounds, each, begun = 190, 16, time.monotonic()
            for r in range(rounds):
                wait = begun + r * 0.1 - time.monotonic()
                if wait > 0:
                    time.sleep(wait)  # the pace of the feed
                items = [quote(i) for i in range(each)]
                for q in items:
                    q["data"]["ask_size"] = f"0.{1000 + r}7"  # says which request it came with
                sent[r] = time.monotonic_ns()
                self.ingest(*items)
            last = start + rounds * each
            wait_for(lambda: all(s and s[-1] == last for s in seen), 20)
        finally:
            done.set()
            reader.join()
        for s in seen:
            self.assertEqual(s, list(range(start + 1, last + 1)))
        late.sort()
        p99 = late[len(late) * 99 // 100] / 1e6
        print(f"delivery to 199 clients beside a stalled one: {len(late)} frames, p50 {late[len(late) // 2] / 1e6:.1f} ms, "
              f"p99 {p99:.1f} ms, from the feed's request to the client's read")
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
        system = ws.get("/system", as_["read"]).json
        self.assertEqual(set(system["engines"]), set(ENGINES))
        up = {n for n, e in system["engines"].items() if e["status"] == "answering"}
        self.assertEqual(up, {"portfolio", "risk", "strategy", "websocket"})
        for n in up:
            self.assertEqual(system["engines"][n]["health"]["engine"], n)
            self.assertLess(system["engines"][n]["age_ms"], 2000)
        self.assertEqual((system["count"], system["available"]), (9, 4))


if __name__ == "__main__":
    unittest.main()
