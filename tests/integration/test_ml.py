"""Models from market data to predictions: a simulated session through marketdata, features and ml, a model that trains
itself on it, predictions on the bus and over HTTP, the registry over kill -9, and the critical path under load."""
import collections
import json
import os
import selectors
import signal
import socket
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from keeltest import Chain, HYBRID, keel, wait_for  # noqa: E402

TIMED = bool(os.environ.get("KEEL_TIMED"))
OLD = 86400000  # ms: the session is over while these tests still ask


class Clients:
    """Keep-alive connections that each ask again as soon as they are answered; counts the answers by status and code."""

    def __init__(self, port, path, body, connections):
        text = json.dumps(body).encode()
        self.request = (f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                        f"Content-Length: {len(text)}\r\n\r\n").encode() + text
        self.address, self.connections = ("127.0.0.1", port), connections

    def run(self, seconds):
        answers, ready = collections.Counter(), selectors.DefaultSelector()
        for _ in range(self.connections):
            s = socket.create_connection(self.address)
            s.sendall(self.request)
            ready.register(s, selectors.EVENT_READ)
        end = time.monotonic() + seconds
        while ready.get_map():
            for key, _ in ready.select(30):
                head, _, body = key.fileobj.recv(65536).partition(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                while len(body) < length:
                    body += key.fileobj.recv(65536)
                status = int(head.split()[1])
                answers[status, None if status == 200 else json.loads(body)["code"]] += 1
                if time.monotonic() < end:
                    key.fileobj.sendall(self.request)
                else:
                    ready.unregister(key.fileobj)
                    key.fileobj.close()
        return answers


class Models(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        class Owner:
            addCleanup = cls.addClassCleanup
        cls.chain = Chain(Owner, ["marketdata", "features", "ml"])
        cls.ml = cls.chain["ml"]
        got = cls.chain["marketdata"].post("/feeds", {"kind": "simulate", "seed": 7, "duration_s": 150, "speed": 30})
        assert got.status == 200, got
        wait_for(lambda: cls.ml.get("/models").json["models"][0]["status"] == "ready", 120)
        wait_for(lambda: cls.chain["marketdata"].get("/feeds").json["feeds"][0]["state"] == "COMPLETED", 120)

    def predict(self, model, body, status=200):
        got = self.ml.post(f"/ml/critical-predict/{model}", body)
        self.assertEqual(got.status, status, got)
        return got.json

    def version(self, n=None):
        versions = self.ml.get("/models/price_model").json["versions"]
        return [v for v in versions if v["serving"] or v["version"] == n][0]

    def train(self, **body):
        got = self.ml.post("/models/price_model/train", body)
        self.assertEqual(got.status, 202, got)
        path = f"/jobs/{got.json['job_id']}"
        wait_for(lambda: self.ml.get(path).json["status"] not in ("queued", "running"), 30)
        return self.ml.get(path).json

    def test_model_trained_itself(self):
        v = [v for v in self.ml.get("/models/price_model").json["versions"] if v["version"] == 1][0]
        t, w = v["training"], v["weights"]
        self.assertIs(t["automatic"], True)
        self.assertGreaterEqual(t["rows"] + t["flat"] + t["incomplete"], 300, t)
        self.assertGreater(t["tested"], 50)
        self.assertEqual(t["better"], t["log_loss"] < t["baseline_log_loss"])
        self.assertEqual(w["schema_hash"], self.chain["features"].get("/features/available").json["schema_hash"])
        self.assertEqual({len(w[k]) for k in ("mean", "sd", "weight")}, {len(w["inputs"])})

    def test_predictions_of_live_streams(self):
        price = self.predict("price_model", {"symbol": "BTCUSDT", "max_age_ms": OLD})
        self.assertIn(price["prediction"]["direction"], ("UP", "DOWN", "FLAT"))
        self.assertGreaterEqual(price["confidence"], 0.5)
        self.assertEqual((price["backend"], price["hardware_used"], price["fallback"]), ("c", "CPU", False))
        volatility = self.predict("volatility_forecaster", {"symbol": "BTCUSDT", "max_age_ms": OLD})["prediction"]
        self.assertTrue(0 < volatility["volatility"] < 0.05, volatility)
        anomaly = self.predict("anomaly_detector", {"symbol": "BTCUSDT", "max_age_ms": OLD})["prediction"]
        self.assertEqual(anomaly["is_anomaly"], anomaly["anomaly_score"] > anomaly["threshold"])
        for model in ("regime_detector", "risk_predictor", "portfolio_optimizer"):
            self.assertEqual(self.predict(model, {"symbol": "BTCUSDT"}, 422)["code"], "model_disabled")
        # Long after the session its last vector is stale.
        wait_for(lambda: self.ml.post("/ml/critical-predict/price_model",
                                      {"symbol": "BTCUSDT", "max_age_ms": 1}).json.get("code") == "stale_input")

    def predicted(self):
        return self.ml.get("/hybrid/performance").json["hardware"]["predictions"]["c"] if HYBRID != "false" else 0

    def test_batch_of_a_thousand(self):
        before, inputs = self.predicted(), [{"symbol": "BTCUSDT", "max_age_ms": OLD}, {"symbol": "NOBODY"}]
        got = self.ml.post("/ml/batch-inference", {"model_id": "price_model", "inputs": inputs * 500})
        self.assertEqual((got.status, got.json["batch_size"], got.json["succeeded"]), (200, 1000, 500), got)
        self.assertEqual([r["index"] for r in got.json["results"]], list(range(1000)))
        self.assertEqual({(r["success"], r.get("code")) for r in got.json["results"]}, {(True, None), (False, "missing")})
        if HYBRID != "false":
            self.assertGreaterEqual(self.predicted(), before + 500)
        more = self.ml.post("/ml/batch-inference", {"model_id": "price_model", "inputs": inputs * 500 + [{}]})
        self.assertEqual((more.status, more.json["field"]), (400, "inputs"), more)

    def test_predictions_were_published(self):
        # Hybrid engines have a stream for each lane, plain ones a single stream.
        lengths = [self.chain.redis.command("XLEN", "nautilus-ml-hybrid-streams" + lane) for lane in (":priority", "")]
        self.assertGreater(sum(int(n[1:]) for n in lengths), 100, lengths)

    def test_training_promotion_and_kill(self):
        before = self.version()
        job = self.train(horizon=3, seed=4, promote=True)
        self.assertEqual(job["status"], "done", job)
        new = job["result"]["versions"][0]
        self.assertEqual((new["serving"], new["training"]["seed"]), (True, 4))
        self.assertNotEqual(new["sha256"], before["sha256"])
        self.ml.kill(signal.SIGKILL)
        self.ml.start()
        after = self.version()
        self.assertEqual(after, new, "what was stored is what is served, to the last digit")
        got = self.ml.post("/models/price_model/rollback", {})
        self.assertEqual((got.status, got.json["version"]), (200, before["version"]), got)
        # Without a stream there is no vector, but figures can be given.
        self.assertEqual(self.predict("price_model", {"symbol": "BTCUSDT"}, 422)["code"], "missing")
        w = before["weights"]
        body = {"features": {name: 1.0 for name in w["inputs"]}, "current_price": 1.0}
        self.assertIn(self.ml.post("/ml/critical-predict/price_model", body).status, (200, 422))
        bad = self.ml.post("/models/price_model/train", {})
        self.assertEqual((bad.status, bad.json["code"]), (422, "missing"), bad)

    def models(self, *args, env=None):
        return keel("models", *args, env=dict({"ML_URL": f"http://127.0.0.1:{self.ml.port}"}, **(env or {})))

    def test_command_line(self):
        code, out = self.models("list")
        self.assertEqual((code, len(out.splitlines())), (0, 7), out)
        self.assertRegex(out, r"price_model +(ready|not_promoted)")
        self.assertRegex(out, r"regime_detector +disabled")
        before = self.version()["version"]
        code, out = self.models("train", "price_model", "--seed", "9", "--horizon=4", "--l2", "5", "--promote")
        self.assertEqual(code, 0, out)
        new = self.version()
        self.assertEqual((new["training"]["seed"], new["weights"]["horizon"], new["training"]["l2"]), (9, 4, 5))
        for words in (f"version {new['version']}", "log-loss", "baseline", new["sha256"], "\npromoted: "):
            self.assertIn(words, out)
        code, out = self.models("promote", "price_model", str(before))
        self.assertEqual((code, self.version()["version"]), (0, before), out)
        code, out = self.models("rollback", "price_model")
        self.assertEqual((code, self.version()["version"]), (0, new["version"]), out)
        self.assertEqual(self.models("promote", "price_model", str(before))[0], 0)
        code, out = self.models("show", "price_model")
        self.assertEqual(code, 0)
        self.assertIn(f"version {before} (serving)", out)
        for code, words, args in ((1, "there is no model", ("show", "oracle")), (1, "there is no version 999", ("promote", "price_model", "999")),
                                  (1, "model_disabled", ("train", "regime_detector")), (1, "not_trainable", ("train", "anomaly_detector")),
                                  (1, "folds", ("train", "price_model", "--folds", "0")),
                                  (1, "not_trained", ("train", "price_model", "--horizon", "999")),
                                  (2, "--l2", ("train", "price_model", "--l2", "much")), (2, "models takes", ("teach", "price_model")),
                                  (2, "VERSION", ("promote", "price_model", "first")), (2, "no model id", ("show", "a/b"))):
            got, out = self.models(*args)
            self.assertEqual(got, code, out)
            self.assertIn(words, out)
        code, out = self.models("list", env={"ML_URL": "http://127.0.0.1:1"})
        self.assertEqual(code, 1)
        self.assertIn("does not answer", out)

    def test_critical_path_under_load(self):
        for connections in (16, 64):
            for model, want in (("price_model", (200, None)), ("regime_detector", (422, "model_disabled"))):
                before = self.outcomes()
                seen = Clients(self.ml.port, f"/ml/critical-predict/{model}", {"symbol": "BTCUSDT", "max_age_ms": OLD},
                               connections).run(10 if TIMED else 2)
                total = sum(seen.values())
                # A machine that gives the engine no CPU for seconds makes it shed, and say so; nothing else is allowed.
                late = seen.pop((503, "loop_lag"), 0)
                self.assertEqual(set(seen), {want}, seen)
                self.assertGreater(seen[want], late, f"{late} late at {connections} connections")
                if HYBRID == "false" or TIMED:
                    self.assertEqual(late, 0, f"{connections} connections, {total} answers")
                if HYBRID != "false":
                    after = self.outcomes()
                    grown = {k: after[k] - before[k] for k in after}
                    self.assertEqual((sum(grown.values()), grown["cancelled"] + grown["rejected"]), (total, late), grown)
                    self.assertEqual((grown["failure"], grown["timeout"]), (0, 0))
        self.assertIn(self.ml.get("/health").json["circuit_breaker"]["state"], ("closed", "disabled"))

    def outcomes(self):
        if HYBRID == "false":
            return None
        return self.ml.get("/hybrid/performance").json["operations"]["critical_predict"]["outcomes"]


if __name__ == "__main__":
    unittest.main(verbosity=2)
