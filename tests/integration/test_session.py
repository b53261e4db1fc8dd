"""The main job, end to end on simulated and real data: counts, money and exit codes (README's first promise)."""
import json
import os
import sys
import unittest
from decimal import Decimal

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from keeltest import Folder, HYBRID, free_offset, keel, shared  # noqa: E402


def session(test, *args, env=None):
    folder = Folder(test).path
    report = os.path.join(folder, "report.json")
    code, out = keel("demo", "--once", "--port-offset", str(free_offset()), "--data-dir", os.path.join(folder, "data"),
                     "--report", report, *args, env=env)
    test.assertTrue(os.path.exists(report), out)
    with open(report) as f:
        got = json.load(f)
    test.assertEqual(code, 0, out)
    test.assertTrue(got["ok"], out)
    test.assertTrue(all(c["ok"] for c in got["checks"]), out)
    test.assertEqual(got["ledger_sum"], "0")
    test.assertEqual(len(got["stages"]), 9)
    for engine, stage in got["stages"].items():
        test.assertEqual(stage["dropped"], 0, engine)
    names = [c["name"] for c in got["checks"]]
    for name in ("received_is_published", "fills_agree", "positions_agree", "equity_is_pnl", "analytics_equity_is_portfolios",
                 "features_are_predictions", "predictions_published", "critical_operations"):
        test.assertEqual(names.count(name), 1, names)
    if (env or {}).get("ENABLE_HYBRID", HYBRID) != "false":
        test.assertGreaterEqual(len(got["critical"]), 8, got["critical"])
        for name, op in got["critical"].items():
            test.assertTrue(op["count"] > 0 and op["p50_us"] > 0 and op["p99_us"] >= op["p50_us"], name)
    return got


def model_predicted(test, got):
    """Trained in the session itself, on its vectors: nothing before that, everything after."""
    m = got["models"]["price_model"]
    test.assertEqual(m["version"], 1, m)
    test.assertGreaterEqual(m["vectors_before_ready"], 300, m)
    test.assertGreater(m["predictions"], 0, m)
    test.assertEqual(m["vectors_ready"], m["predictions"] + m["refused"]["missing"] + m["refused"]["out_of_range"], m)
    test.assertEqual(m["training"]["better"], m["training"]["log_loss"] < m["training"]["baseline_log_loss"], m)
    test.assertLessEqual(m["signals"], m["predictions"], m)
    test.assertLessEqual(m["orders"], m["signals"], m)


class Simulated(unittest.TestCase):
    def enough(self, got):
        self.assertGreaterEqual(got["market"]["quotes"], 1000)
        self.assertEqual(got["market"]["bad_records"], 0)
        self.assertGreaterEqual(sum(got["orders"].values()), 10)
        self.assertGreaterEqual(got["orders"].get("DENIED", 0), 1)
        self.assertGreaterEqual(got["orders"].get("CANCELED", 0), 1)
        self.assertGreaterEqual(got["orders_partially_filled"], 1)
        self.assertGreaterEqual(got["fills"], 5)
        self.assertEqual(len(got["market"]["symbols"]), 8)
        model_predicted(self, got)
        self.assertGreater(got["models"]["price_model"]["orders"], 0, "the model's signal is one of the session's strategies")

    def test_hybrid(self):
        got = session(self, env={"ENABLE_HYBRID": "true"})
        self.enough(got)
        self.assertEqual(got["seed"], 7)
        for op in ("strategy.execute_internal", "risk.critical_check", "portfolio.fill"):
            self.assertGreater(got["critical"][op]["count"], 0)
        self.assertGreater(got["latency_us"]["market_to_order"]["p50"], 0)
        self.assertGreater(got["latency_us"]["market_to_position"]["p50"], 0)

    def test_plain(self):
        self.enough(session(self, env={"ENABLE_HYBRID": "false"}))


class Binance(unittest.TestCase):
    PATH = "data/binance_ws/usdm/btcusdt_20240808.gz"

    def golden(self, speed):
        """Counts published in the data's README, checked there against the venue's own rule."""
        got = session(self, "--data", shared(self.PATH), "--speed", speed)
        m = got["market"]
        self.assertEqual((m["quotes"], m["trades"], m["book_updates_applied"], m["sequence_gaps"], m["bad_records"]),
                         (66089, 21313, 6547, 0, 0))
        self.assertEqual(Decimal(str(m["trade_volume"])), Decimal("2429.366"))
        last = m["symbols"]["BTCUSDT"]
        self.assertEqual((Decimal(str(last["best_bid"])), Decimal(str(last["best_ask"]))),
                         (Decimal("61659.7"), Decimal("61659.8")))
        self.assertGreaterEqual(got["fills"], 5)
        return got

    def test_as_fast_as_the_slowest_reader(self):
        self.golden("max")

    def test_twenty_times_real_time(self):
        self.golden("20")


class Lean(unittest.TestCase):
    def test_minutes_of_three_symbols(self):
        """Row counts of the data's README: trade rows 9,963, quote rows 11,852."""
        got = session(self, "--data", shared("data/lean_us_equity_minute"))
        self.assertEqual(got["market"]["quotes"], 3042 + 3398 + 5412)
        self.assertEqual(got["market"]["bars"], 2558 + 2566 + 4839)
        self.assertEqual(sorted(got["market"]["symbols"]), ["AIG", "IBM", "SPY"])
        self.assertGreaterEqual(got["fills"], 5)


if __name__ == "__main__":
    unittest.main(verbosity=2)
