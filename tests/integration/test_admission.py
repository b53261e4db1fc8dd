"""Rate limits over real sockets: who a client is, what is never limited, what a refusal says. In plain mode there are none."""
import http.client
import json
import os
import re
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from keeltest import HYBRID, Engine, Folder, wait_for  # noqa: E402

IS_HYBRID = HYBRID.lower() not in ("false", "0", "no", "off")
TOKENS = {f"{who.upper()}_TOKEN": f"the-{who}-token" for who in ("read", "trade", "admin", "engine")}
# Two at once and then one in a hundred seconds: no test is that slow.
LIMITS = {"RATE_PER_CLIENT": "0.01:2", "RATE_PER_ROUTE": "stress_test=0.01:1,*=1000"}


def bearer(who):
    return {"Authorization": f"Bearer the-{who}-token"}


class Rates(unittest.TestCase):
    def engine(self, **env):
        engine = Engine("risk", Folder(self).path, env=dict(LIMITS, **env)).start()
        self.addCleanup(lambda: self.assertEqual(engine.stop(), 0))
        return engine

    def limited(self, got):
        if not IS_HYBRID:
            self.assertEqual(got.status, 200, got)
            return
        self.assertEqual((got.status, got.json["code"]), (429, "rate_limited"), got)
        self.assertTrue(1 <= int(got.headers["Retry-After"]) <= 100, got.headers)
        self.assertTrue(0 < got.json["retry_after_ms"] <= int(got.headers["Retry-After"]) * 1000, got)
        self.assertIn("X-Trace-Id", got.headers)

    def test_a_token_is_a_client(self):
        engine = self.engine(**TOKENS)
        for _ in range(2):
            self.assertEqual(engine.get("/risk/limits", bearer("read")).status, 200)
        self.limited(engine.get("/risk/limits", bearer("read")))
        self.limited(engine.get("/risk/breaches", bearer("read")))
        self.assertEqual(engine.get("/risk/limits", bearer("trade")).status, 200)
        for _ in range(5):  # other engines, and what must always be reached
            self.assertEqual(engine.get("/risk/limits", bearer("engine")).status, 200)
            self.assertEqual(engine.get("/health").status, 200)
            self.assertEqual(engine.get("/metrics", bearer("read")).status, 200)
        halt = {"state": "HALTED", "reason": "test"}
        for _ in range(5):
            self.assertEqual(engine.call("PUT", "/risk/trading-state", halt, bearer("trade")).status, 200)
        self.assertEqual(engine.get("/risk/limits", bearer("nobody")).status, 401)
        if IS_HYBRID:
            shown = engine.get("/hybrid/performance", bearer("read")).json["admission"]
            self.assertEqual(sum(op["client_rate"] for op in shown["refused"].values()), 2)
            self.assertEqual(shown["rate_limits"]["client"], {"per_second": 0.01, "burst": 2})
            text = engine.get("/metrics", bearer("read")).body.decode()
            self.assertIn('keel_refused_total{engine="risk",op="limits",reason="client_rate"} 1\n', text)

    def test_without_tokens_it_is_the_address(self):
        engine = self.engine()
        for _ in range(2):
            self.assertEqual(engine.get("/risk/limits").status, 200)
        self.limited(engine.get("/risk/limits"))
        conn = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=20, source_address=("127.0.0.2", 0))
        conn.request("GET", "/risk/limits")
        got = conn.getresponse()
        self.assertEqual(got.status, 200)
        self.assertIn("limits", json.loads(got.read()))
        conn.close()

    def test_who_never_pauses_is_slowed(self):
        """Three refusals in a row are answered at once; from the fourth on the same connection's requests wait, but not what
        must never wait; and a request that waits is answered when the engine is stopped."""
        engine = self.engine()
        conn = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=20)
        self.addCleanup(conn.close)

        def ask(method="GET", path="/risk/limits", body=None):
            conn.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
            got = conn.getresponse()
            got.read()
            return got.status

        def slowed():
            text = engine.get("/metrics").body.decode()
            return int(re.search(r"keel_http_slowed_total\{.*\} (\d+)", text)[1])

        refused = 429 if IS_HYBRID else 200
        self.assertEqual([ask() for _ in range(8)], [200] * 2 + [refused] * 6)
        self.assertEqual(slowed(), 3 if IS_HYBRID else 0)
        self.assertEqual(ask("PUT", "/risk/trading-state", {"state": "HALTED", "reason": "test"}), 200)
        self.assertEqual(slowed(), 3 if IS_HYBRID else 0)
        self.assertEqual([ask() for _ in range(4)], [refused] * 4)
        self.assertEqual(slowed(), 4 if IS_HYBRID else 0)
        conn.request("GET", "/risk/limits")
        if IS_HYBRID:
            wait_for(lambda: slowed() == 5)
        self.assertEqual(engine.stop(), 0)
        self.assertIn(conn.getresponse().status, (refused, 503))


if __name__ == "__main__":
    unittest.main(verbosity=2)
