"""The npm client ws against the engine: it connects, is asked by pings, subscribes, gets data and closes cleanly; and it is
told when the engine stops."""
import json
import os
import shutil
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from keeltest import BIN, TOP, Chain, heard  # noqa: E402

TOPIC = "marketdata.quote:BTCUSDT"
HOME = os.path.join(os.path.dirname(BIN), "node")


def package():
    """Puts the client into the build directory, as its lock file says; skips with a reason, which fails in CI."""
    def missing(why):
        if os.environ.get("CI"):
            raise AssertionError(f"{why}, and in CI a skip is a failure")
        raise unittest.SkipTest(why)
    if not shutil.which("node") or not shutil.which("npm"):
        missing("there is no node and npm here")
    os.makedirs(HOME, exist_ok=True)
    for name in ("package.json", "package-lock.json", "client.js"):
        shutil.copy(os.path.join(TOP, "tests/node", name), HOME)
    if not os.path.exists(os.path.join(HOME, "node_modules/ws/package.json")):
        p = subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=HOME, capture_output=True, text=True, timeout=300)
        if p.returncode != 0:
            missing(f"npm ci could not install ws: {p.stderr[-1000:]}")


class Follower:
    def __init__(self, test, port):
        self.p = subprocess.Popen(["node", "client.js", f"ws://127.0.0.1:{port}/ws/stream", TOPIC], cwd=HOME,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        test.addCleanup(self.end)

    def end(self):
        if self.p.poll() is None:
            self.p.kill()
        self.p.wait()
        self.p.stdout.close()

    def until(self, what):
        """The next line of that kind; others before it are passed over, an error never."""
        for line in self.p.stdout:
            got = json.loads(line)
            if got["what"] == what:
                return got
            if got["what"] in ("error", "closed"):
                raise AssertionError(got)
        raise AssertionError(f"it ended without {what}")


class Node(unittest.TestCase):
    def setUp(self):
        package()
        self.chain = Chain(self, ["marketdata", "websocket"], env={"WS_PING_MS": "1000"})

    def ingest(self):
        got = self.chain["marketdata"].post("/data/ingest", {"data": [
            {"symbol": "BTCUSDT", "data_type": "quote", "source": "internal", "timestamp": time.time_ns() - 10**6,
             "data": {"bid": "61659.7", "bid_size": "2.311", "ask": "61659.8", "ask_size": "0.874"}}]})
        self.assertEqual(got.status, 200, got)

    def test_ws(self):
        ws = self.chain["websocket"]
        heard(self.chain, "quote", self.ingest, ["websocket"])  # the bus is being read
        first = Follower(self, ws.port)
        self.assertEqual(first.until("open")["extensions"], "")
        welcome = first.until("message")
        self.assertEqual((welcome["isBinary"], welcome["message"]["data"]["status"]), (False, "connected"))
        self.assertEqual(first.until("message")["message"]["data"], {"status": "subscribed", "topic": TOPIC})
        # Who does not answer two pings is closed at the third.
        self.assertEqual([first.until("ping")["data"] for _ in range(3)], ["keel"] * 3)
        self.ingest()
        record = first.until("message")["message"]
        self.assertEqual((record["topic"], record["data"]["bid"], record["seq"]), (TOPIC, "61659.7", 2))
        self.assertEqual(first.until("closed"), {"what": "closed", "code": 1000, "reason": ""})
        self.assertEqual(first.p.wait(60), 0)
        # Another one is there when the engine stops.
        last = Follower(self, ws.port)
        last.until("message")
        self.assertEqual(ws.stop(), 0)
        self.assertEqual(last.until("closed"), {"what": "closed", "code": 1001, "reason": "going_away"})
        self.assertEqual(last.p.wait(60), 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
