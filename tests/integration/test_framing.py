"""WebSocket handshake and framing (RFC 6455) byte by byte over a real socket, pings and who does not answer them, slow
clients; also run by the sanitizer build."""
import os
import selectors
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from keeltest import Engine, Folder  # noqa: E402
from wsclient import BINARY, CLOSE, PING, PONG, TEXT, Client, Refused, frame  # noqa: E402

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z"


class Case(unittest.TestCase):
    """One engine without a bus."""

    args = ()

    @classmethod
    def setUpClass(cls):
        class Owner:
            addCleanup = cls.addClassCleanup
        cls.e = Engine("websocket", Folder(Owner).path, args=cls.args).start()

    @classmethod
    def tearDownClass(cls):
        assert cls.e.stop() == 0, cls.e.log()[-2000:]
        assert "ERROR: " not in cls.e.log() and "runtime error" not in cls.e.log(), cls.e.log()[-3000:]

    def client(self, **more):
        c = Client(self.e.port, **more)
        self.addCleanup(c.close)
        welcome = c.recv()
        self.assertEqual((welcome["type"], welcome["topic"], welcome["data"]["status"]), ("system", "connection", "connected"))
        self.assertEqual(welcome["message_id"], welcome["data"]["connection_id"] + "-1")
        self.assertRegex(welcome["timestamp"], STAMP)
        self.assertEqual(welcome["timestamp"], welcome["data"]["timestamp"])
        return c

    def ok(self, method, path, body=None):
        got = self.e.call(method, path, body)
        self.assertEqual(got.status, 200, got)
        return got.json

    def refused(self, status, code, **more):
        with self.assertRaises(Refused) as got:
            Client(self.e.port, **more)
        self.assertEqual(got.exception.status, status, got.exception)
        self.assertIn(f'"code":"{code}"'.encode(), got.exception.body)
        return got.exception.headers


class Protocol(Case):
    """What a client may send, and what comes back."""

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

    def test_close_codes(self):
        """Which may be on the wire: RFC 6455 7.4 and the registry it names."""
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535):
            c = self.client()
            c.send(frame(CLOSE, code.to_bytes(2, "big")))
            self.assertIsNone(c.recv())
            self.assertEqual(c.close_code, 1002, code)
        for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999):
            c = self.client()
            c.send(frame(CLOSE, code.to_bytes(2, "big") + "grüß".encode()))
            self.assertIsNone(c.recv())
            self.assertEqual(c.close_code, code)

    def test_lengths_and_masks(self):
        """Each form of the length at its bounds, under masks of all kinds; what comes back is what was sent."""
        for n in (20, 125, 126, 127, 65535, 65536):
            for mask in (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01\x80\x00\xfe"):
                c = self.client()
                c.send(frame(TEXT, b'{"type":"heartbeat"}'.ljust(n), mask=mask))
                self.assertEqual(c.recv()["type"], "heartbeat", n)

    def test_utf8(self):
        for good in ("κόσμε", "\U0010ffff", "\ud7ff", "\ue000", "\x7f\x80", "€\U0001f600"):
            c = self.client()
            text = good.encode("utf-8", "surrogatepass")
            for cut in range(len(text) + 1):  # anywhere, also inside a character
                c.send(frame(TEXT, text[:cut], fin=False) + frame(0, text[cut:]))
                self.assertEqual(c.recv()["data"]["code"], "invalid_json")
        for bad in (b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"\x80", b"\xc3", b"\xe2\x82",
                    b"\xf0\x9f\x98"):
            c = self.client()
            c.send(frame(TEXT, b'"' + bad[:1], fin=False) + frame(0, bad[1:]))
            self.assertIsNone(c.recv())
            self.assertEqual(c.close_code, 1007, bad)

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
            got = self.e.post("/broadcast", {"topic": topic, "data": 1})
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


class Pings(Case):
    """The server asks who is there: the one who answers stays, the one who does not is closed."""
    args = ("--ws-ping-ms", "1000")

    def test_who_does_not_answer_is_closed(self):
        silent, polite = self.client(), self.client()
        seen, answered, ready = [], 0, selectors.DefaultSelector()
        self.addCleanup(ready.close)
        for c in (silent, polite):
            ready.register(c.s, selectors.EVENT_READ, c)
        while not seen or seen[-1][0] != CLOSE:
            events = ready.select(60)
            self.assertTrue(events, "no ping came")
            for key, _ in events:
                got = key.data.recv_frame()
                if key.data is silent:
                    seen.append(got)
                else:
                    polite.send(frame(PONG, got[1]))
                    answered += 1
        self.assertEqual(seen, [(PING, b"keel"), (PING, b"keel"), (CLOSE, b"\x03\xf0no_pong")])  # 1008
        # The other one was asked just as often, and is still heard.
        self.assertGreaterEqual(answered, 2)
        polite.say({"type": "heartbeat"})
        self.assertEqual(polite.recv()["type"], "heartbeat")


if __name__ == "__main__":
    unittest.main(verbosity=2)
