"""The first version's requests: what it answered is still there, with the same types, or the difference is listed in
docs/compat.md. Each row of that table is exercised here, by a function registered under the row's first column."""
import json
import math
import os
import re
import statistics
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
import wsclient  # noqa: E402
from keeltest import ENGINES, TOP, Chain, handled, heard, wait_for  # noqa: E402

WORKING = ("marketdata", "features", "strategy", "risk", "portfolio")
NUMBER, FLAG, TEXT, LIST, MAP = (int, float), bool, str, list, dict
NUMBER_OR_NULL, TEXT_OR_NULL = (int, float, type(None)), (str, type(None))
DIFFERENCES = {}


def difference(*rows):
    def register(fn):
        for row in rows:
            assert row not in DIFFERENCES, row
            DIFFERENCES[row] = fn
        return fn
    return register


def table():
    """First column of every row of docs/compat.md."""
    with open(os.path.join(TOP, "docs/compat.md"), encoding="utf-8") as f:
        rows = re.findall(r"^\| (.*?) \| .* \| .* \| .* \|$", f.read(), re.M)
    return [r for r in rows if r != "request" and not set(r) <= set("-| ")]


def fields(test, got, want, where):
    """got has every member of want with a value of its type; want may nest."""
    test.assertIsInstance(got, dict, where)
    for name, kind in want.items():
        test.assertIn(name, got, where)
        if isinstance(kind, dict):
            fields(test, got[name], kind, f"{where}.{name}")
        else:
            test.assertIsInstance(got[name], kind, f"{where}.{name}")
            test.assertEqual(isinstance(got[name], bool), kind is FLAG, f"{where}.{name}")


PRICES = [100 + (i * 7 % 13) + i / 10 for i in range(60)]
VOLUMES = [10 + i % 5 for i in range(60)]
TRADE = {"symbol": "AAPL", "quantity": 1, "side": "BUY", "price": 101}
POSITIONS = [{"symbol": "AAPL", "market_value": 60000}, {"symbol": "MSFT", "market_value": 30000}]
RESULT = {"total_exposure": NUMBER, "portfolio_value": NUMBER, "leverage": NUMBER, "concentration_ratio": NUMBER,
          "var_95": NUMBER_OR_NULL, "position_count": NUMBER, "check_timestamp": NUMBER, "processing_time_ms": NUMBER}
CHECK = {"status": TEXT, "portfolio_id": TEXT, "risk_result": RESULT, "breaches": LIST, "processing_time_ms": NUMBER,
         "critical_path": FLAG}
STRATEGY = {"strategy_id": TEXT, "strategy_name": TEXT, "version": TEXT, "status": TEXT, "created_at": TEXT,
            "updated_at": TEXT}


class Compat(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        class Owner:
            addCleanup = cls.addClassCleanup
        cls.chain = Chain(Owner, list(ENGINES), env={"ENABLE_HYBRID": "true", "WS_PING_MS": "1000"}, plain=("factor",))
        cls.quote(cls)
        # What the rows below start from: a deployed strategy, and an order that warms the way to risk.
        for path, body in (("/strategies", {"strategy_id": "first", "strategy_name": "first", "version": "1.0.0"}),
                           ("/strategies", {"strategy_id": "draft", "strategy_name": "draft"}),
                           ("/strategies", {"strategy_id": "cross", "strategy_name": "cross", "kind": "ma_cross",
                                            "symbols": ["AAPL"], "parameters": {"quantity": 1}}),
                           ("/strategies/first/deploy", {}), ("/strategies/cross/deploy", {}),
                           ("/orders", dict(TRADE, symbol="NOPRICE", client_order_id="warm"))):
            got = cls.chain["strategy"].post(path, body)
            assert got.status in (200, 201, 422), got

    def quote(self):
        def tell():
            got = self.chain["marketdata"].post("/data/ingest", {"data": [
                {"symbol": "AAPL", "data_type": kind, "source": "internal", "timestamp": time.time_ns() - 10**6,
                 "latency_ms": 1.0,
                 "data": data} for kind, data in (("trade", {"price": 100.5, "size": 3}),
                                                  ("quote", {"bid": 100, "bid_size": 50, "ask": 101, "ask_size": 50}))]})
            assert got.status == 200, got
        heard(self.chain, "quote", tell, ("strategy", "risk", "portfolio", "websocket"))

    def call(self, engine, method, path, body=None, status=200, headers=None):
        got = self.chain[engine].call(method, path, body, headers)
        self.assertEqual(got.status, status, f"{method} {path}: {got}")
        return got.json

    def refused(self, engine, method, path, body, status, code=None, field=None):
        got = self.call(engine, method, path, body, status)
        self.assertIsInstance(got["detail"], str)
        if code:
            self.assertEqual(got["code"], code)
        if field:
            self.assertEqual(got["field"], field)
        return got

    def test_every_row_is_exercised_and_every_difference_is_listed(self):
        rows = table()
        self.assertEqual(len(rows), len(set(rows)), "a row stands twice in docs/compat.md")
        self.assertEqual(sorted(set(rows) - set(DIFFERENCES)), [], "listed in docs/compat.md, exercised nowhere")
        self.assertEqual(sorted(set(DIFFERENCES) - set(rows)), [], "exercised here, not listed in docs/compat.md")
        for row in rows:
            with self.subTest(row):
                DIFFERENCES[row](self)

    # ---- what is as it was ----

    def test_every_engine(self):
        for name in ENGINES:
            with self.subTest(name):
                fields(self, self.call(name, "GET", "/health"),
                       {"status": TEXT, "uptime_seconds": NUMBER, "messagebus_connected": FLAG}, "/health")
                fields(self, self.call(name, "GET", "/metrics", headers={"Accept": "application/json"}),
                       {"uptime_seconds": NUMBER, "engine_type": TEXT, "containerized": FLAG,
                        "requests_per_second": NUMBER},
                       "/metrics")
                if name != "factor":
                    fields(self, self.call(name, "GET", "/hybrid/performance"),
                           {"performance_summary": MAP, "circuit_breaker_status": MAP, "active_operations": NUMBER,
                            "total_metrics": NUMBER}, "/hybrid/performance")

    def test_strategy(self):
        made = self.call("strategy", "POST", "/strategies", {"strategy_name": "kept", "version": "2.1.0",
                                                             "code": "pass",
                                                             "parameters": {"period": 14, "oversold": 30},
                                                             "risk_limits": {}})
        fields(self, made, {"status": TEXT, "strategy_id": TEXT, "strategy_name": TEXT, "version": TEXT},
               "POST /strategies")
        self.assertEqual((made["status"], made["version"]), ("created", "2.1.0"))
        listed = self.call("strategy", "GET", "/strategies")
        self.assertEqual(listed["count"], len(listed["strategies"]))
        fields(self, next(s for s in listed["strategies"] if s["strategy_id"] == made["strategy_id"]), STRATEGY,
               "GET /strategies")
        deployed = self.call("strategy", "POST", f"/strategies/{made['strategy_id']}/deploy",
                             {"deployment_type": "canary"})
        fields(self, deployed, {"status": TEXT, "pipeline_id": TEXT, "strategy_id": TEXT, "deployment_type": TEXT,
                                "stages": LIST},
               "deploy")
        status = self.call("strategy", "GET", f"/deployments/{deployed['pipeline_id']}/status")
        fields(self, status, {"pipeline_id": TEXT, "strategy_id": TEXT, "deployment_type": TEXT,
                              "current_stage": TEXT, "status": TEXT,
                              "started_at": TEXT, "completed_at": TEXT, "stages_completed": NUMBER,
                              "total_stages": NUMBER,
                              "results": MAP}, "deployment")
        self.assertEqual(status["stages_completed"], status["total_stages"])
        done = self.call("strategy", "POST", f"/strategies/{made['strategy_id']}/execute", TRADE)
        fields(self, done, {"status": TEXT, "execution_id": TEXT, "strategy_id": TEXT, "pnl": NUMBER,
                            "execution_time_ms": NUMBER,
                            "trade_details": {"symbol": TEXT, "quantity": NUMBER, "side": TEXT, "price": NUMBER},
                            "performance": {"latency_ms": NUMBER, "hybrid_optimized": FLAG, "meets_sla": FLAG}},
                            "execute")
        self.assertEqual(done["status"], "executed")
        started = self.call("strategy", "POST", "/strategies/cross/start", {})
        fields(self, started, {"execution_id": TEXT, "status": TEXT, "start_time": TEXT}, "start")
        stopped = self.call("strategy", "POST", "/strategies/cross/stop", {})
        fields(self, stopped, {"execution_id": TEXT, "status": TEXT, "duration_minutes": NUMBER, "pnl": NUMBER}, "stop")
        runs = self.call("strategy", "GET", "/executions")
        fields(self, runs["executions"][0], {"execution_id": TEXT, "strategy_id": TEXT, "status": TEXT,
                                             "pnl": NUMBER}, "executions")

    def test_risk(self):
        body = {"portfolio_value": 100000, "positions": [{"market_value": 60000}, {"market_value": 30000}]}
        for path in ("/risk/critical-check/desk", "/risk/check/desk"):
            got = self.call("risk", "POST", path, body)
            fields(self, got, CHECK, path)
            self.assertEqual((got["risk_result"]["total_exposure"], got["risk_result"]["leverage"]), (90000, 0.9))
            self.assertEqual(got["risk_result"]["position_count"], 2)
        got = self.call("risk", "POST", "/risk/portfolio-var/desk", {"positions": POSITIONS, "num_simulations": 10000})
        fields(self, got["var_result"], {"portfolio_value": NUMBER, "num_simulations": NUMBER, "var_95": NUMBER_OR_NULL,
                                         "var_99": NUMBER_OR_NULL, "expected_shortfall_95": NUMBER_OR_NULL,
                                         "expected_shortfall_99": NUMBER_OR_NULL}, "var")
        for kind in ("position_size", "portfolio_value", "daily_loss", "concentration", "leverage", "var_95", "var_99"):
            got = self.call("risk", "POST", "/risk/limits", {"limit_id": f"kept_{kind}", "limit_type": kind,
                                                             "limit_value": 7,
                                                             "current_value": 0, "enabled": False,
                                                             "portfolio_id": "desk"})
            self.assertEqual(got["status"], "created")
        listed = self.call("risk", "GET", "/risk/limits")
        self.assertEqual(listed["count"], len(listed["limits"]))
        fields(self, next(x for x in listed["limits"] if x["limit_id"] == "kept_leverage"),
               {"limit_id": TEXT, "limit_type": TEXT, "limit_value": NUMBER, "enabled": FLAG}, "limits")
        fields(self, self.call("risk", "GET", "/risk/breaches"), {"breaches": LIST, "count": NUMBER}, "breaches")

    def test_features(self):
        body = {"prices": PRICES, "volumes": VOLUMES, "current_price": PRICES[-1]}
        got = self.call("features", "POST", "/features/calculate/AAPL", body)
        fields(self, got, {"status": TEXT, "symbol": TEXT, "processing_time_ms": NUMBER,
                           "feature_set": {"timestamp": TEXT, "total_features": NUMBER, "features": MAP}}, "calculate")
        fields(self, got["feature_set"]["features"]["sma_20"], {"value": NUMBER, "type": TEXT, "confidence": NUMBER},
               "sma_20")
        got = self.call("features", "POST", "/features/technical/AAPL", body)
        fields(self, got, {"features": MAP, "count": NUMBER}, "technical")
        for name in ("sma_20", "rsi_14", "macd", "macd_signal", "macd_histogram", "bb_upper", "bb_middle", "bb_lower",
                     "bb_width",
                     "momentum_10", "vwap"):
            self.assertIn(name, got["features"])
        self.assertAlmostEqual(got["features"]["sma_20"]["value"], sum(PRICES[-20:]) / 20, 9)
        got = self.call("features", "GET", "/features/available")
        fields(self, got, {"features": MAP, "count": NUMBER, "categories": LIST}, "available")
        got = self.call("features", "POST", "/features/fundamental/AAPL", {"market_cap": 3e12, "pe_ratio": 30,
                                                                           "pb_ratio": 40})
        fields(self, got["features"], {"market_cap_log": MAP, "pe_ratio": MAP, "pb_ratio": MAP}, "fundamental")
        got = self.call("features", "POST", "/features/batch", {"symbols": ["AAPL"],
                                                                "market_data": {"AAPL": {"prices": PRICES}}})
        fields(self, got, {"batch_size": NUMBER, "processed": NUMBER, "results": {"AAPL": {
            "total_features": NUMBER, "timestamp": TEXT, "processing_time_ms": NUMBER}}}, "batch")

    def test_marketdata(self):
        now = time.time_ns() - 10**6
        got = self.call("marketdata", "POST", "/data/ingest", {"data": [
            {"symbol": "KEPT", "data_type": "tick", "source": "mock", "timestamp": now,
             "data": {"price": 10, "size": 1},
             "latency_ms": 1.0}]})
        fields(self, got, {"status": TEXT, "count": NUMBER, "total_stored": NUMBER}, "ingest")
        got = self.call("marketdata", "GET", "/data/KEPT?data_type=all&limit=100")
        self.assertEqual(got["symbol"], "KEPT")
        fields(self, got["data"][0], {"symbol": TEXT, "data_type": TEXT, "source": TEXT, "timestamp": TEXT,
                                      "data": MAP}, "data")
        fields(self, self.call("marketdata", "GET", "/symbols"), {"symbols": LIST, "count": NUMBER}, "symbols")
        got = self.call("marketdata", "POST", "/symbols/AAPL/snapshot", {})
        fields(self, got, {"last_trade": MAP, "quote": MAP, "daily_stats": MAP}, "snapshot")
        fields(self, self.call("marketdata", "GET", "/feeds"), {"feeds": LIST, "count": NUMBER}, "feeds")
        fields(self, self.call("marketdata", "GET", "/subscriptions"), {"subscriptions": LIST}, "subscriptions")

    def test_portfolio(self):
        body = {"portfolio_name": "kept", "initial_value": 5000, "cash_balance": 5000,
                "optimization_method": "risk_parity",
                "rebalance_frequency": "monthly"}
        made = self.call("portfolio", "POST", "/portfolios", body)
        fields(self, made, {"status": TEXT, "portfolio_id": TEXT, "portfolio_name": TEXT}, "POST /portfolios")
        self.assertEqual(made["status"], "created")
        got = self.call("portfolio", "POST", "/portfolios/with-symbols", dict(body, symbols=["aapl", "MSFT"]))
        self.assertEqual([p["symbol"] for p in got["positions"]], ["AAPL", "MSFT"])
        one = self.call("portfolio", "GET", f"/portfolios/{made['portfolio_id']}")
        fields(self, one, {"portfolio_id": TEXT, "portfolio_name": TEXT, "initial_value": NUMBER,
                           "cash_balance": NUMBER,
                           "optimization_method": TEXT, "rebalance_frequency": TEXT}, "GET /portfolios/{id}")
        listed = self.call("portfolio", "GET", "/portfolios")
        self.assertEqual(listed["count"], len(listed["portfolios"]))
        fields(self, listed["portfolios"][0], {"portfolio_id": TEXT, "portfolio_name": TEXT}, "GET /portfolios")

    # ---- what differs ----

    @difference("any body: a field nobody knows")
    def unknown_field(self):
        for engine, path, body in (("risk", "/risk/critical-check/main", {}), ("strategy", "/orders", TRADE),
                                   ("features", "/features/calculate/AAPL", {"prices": PRICES}),
                                   ("marketdata", "/subscriptions", {}), ("portfolio", "/portfolios",
                                                                          {"portfolio_name": "x"})):
            self.refused(engine, "POST", path, dict(body, colour="red"), 400, "unknown_field", "colour")

    @difference("any body: a field of the first version that is not used")
    def ignored_field(self):
        got = self.call("features", "POST", "/features/calculate/AAPL", {"prices": PRICES, "current_price": 1})
        self.assertEqual(got["ignored"], ["current_price"])

    @difference("any body: a required field is missing")
    def missing_field(self):
        for name in ("symbol", "side", "quantity", "price"):
            body = {k: v for k, v in TRADE.items() if k != name}
            self.refused("strategy", "POST", "/strategies/first/execute", body, 400, "missing", name)

    @difference("any error")
    def problem(self):
        got = self.chain["portfolio"].get("/portfolios/nobody")
        self.assertEqual(got.headers["Content-Type"], "application/problem+json")
        fields(self, got.json, {"type": TEXT, "title": TEXT, "status": NUMBER, "detail": TEXT, "code": TEXT,
                                "trace_id": TEXT}, "404")

    @difference("any POST without `Content-Type: application/json`")
    def content_type(self):
        for kind in (None, "text/plain", "application/x-www-form-urlencoded"):
            self.call("strategy", "POST", "/orders", json.dumps(TRADE), 415, {"Content-Type": kind})

    @difference("any request past its deadline")
    def deadline(self):
        # A body that is decoded on a worker takes longer than the millisecond it is given.
        items = [{"symbol": "LATE", "data_type": "trade", "source": "mock", "timestamp": 1,
                  "data": {"price": 1, "size": 1}}] * 5000
        body = json.dumps({"data": items})
        got = self.chain["marketdata"].ask("POST", "/data/ingest", body, {"X-Deadline-Ms": "1"})
        self.assertEqual(got.status, 504, got)
        self.assertIsInstance(got.json["detail"], str)

    def breaker(self, change, target="critical_check"):
        return self.call("risk", "POST", f"/hybrid/circuit-breakers/{target}/{change}", {})

    @difference("any request while its circuit is open")
    def circuit_open(self):
        failed = self.call("risk", "GET", "/hybrid/performance")["operations"]["critical_check"]["errors"]
        self.breaker("force-open")
        try:
            for _ in range(3):
                got = self.chain["risk"].post("/risk/critical-check/main", {})
                self.assertEqual(got.status, 503, got)
                self.assertGreater(int(got.headers["Retry-After"]), 0)
        finally:
            self.breaker("enable")
        self.call("risk", "POST", "/risk/critical-check/main", {})
        self.assertEqual(self.call("risk", "GET", "/hybrid/performance")["operations"]["critical_check"]["errors"],
                         failed)

    @difference("three client errors in a row")
    def client_errors(self):
        for _ in range(5):
            self.call("strategy", "POST", "/strategies/nobody/execute", TRADE, 404)
            self.call("risk", "POST", "/risk/critical-check/main", {"positions": 1}, 400)
        self.call("risk", "POST", "/risk/critical-check/main", {})
        for engine in ("strategy", "risk"):
            breakers = self.call(engine, "GET", "/hybrid/circuit-breakers")["circuit_breakers"]
            self.assertEqual({b["state"] for b in breakers if not b["name"].startswith("dep.")}, {"closed"})

    @difference("GET `/health`")
    def health(self):
        got = self.call("risk", "GET", "/health")
        self.assertIn(got["status"], ("healthy", "degraded"))
        fields(self, got, {"performance": {"operations": MAP, "overall": MAP}, "dependencies": MAP}, "/health")

    @difference("GET `/metrics`")
    def metrics(self):
        got = self.chain["risk"].get("/metrics")
        self.assertTrue(got.headers["Content-Type"].startswith("text/plain; version=0.0.4"), got.headers)
        self.assertIn(b"# TYPE keel_uptime_seconds gauge", got.body)

    @difference("GET `/hybrid/performance`, plain mode")
    def plain(self):
        self.assertIn("ENABLE_HYBRID", self.call("factor", "GET", "/hybrid/performance", None, 404)["detail"])

    @difference("POST `/strategies` with `code` and `risk_limits`")
    def code(self):
        got = self.call("strategy", "POST", "/strategies", {"strategy_id": "coded", "strategy_name": "coded",
                                                            "code": "import os",
                                                            "risk_limits": {"max": 1}})
        self.assertEqual(sorted(got["ignored"]), ["code", "risk_limits"])
        self.assertNotIn("import os", self.chain["strategy"].get("/strategies/coded").body.decode())

    @difference("POST `/strategies/{id}/deploy`")
    def deploy(self):
        got = self.call("strategy", "POST", "/strategies/first/deploy", {})
        self.assertEqual((got["status"], got["stages"]), ("deployed", ["validate", "store"]))
        self.call("strategy", "POST", "/strategies", {"strategy_id": "broken", "strategy_name": "broken",
                                                      "kind": "ma_cross",
                                                      "parameters": {"fast": "sma_20", "slow": "sma_20",
                                                                     "quantity": 1}})
        self.refused("strategy", "POST", "/strategies/broken/deploy", {}, 422)

    @difference("POST `/strategies/{id}/deploy` with `deployment_type`")
    def deployment_type(self):
        got = self.call("strategy", "POST", "/strategies/first/deploy", {"deployment_type": "blue_green"})
        self.assertEqual((got["deployment_type"], got["ignored"]), ("direct", ["deployment_type"]))

    @difference("POST `/strategies/{id}/execute`: what it does")
    def execute(self):
        got = self.call("strategy", "POST", "/strategies/first/execute", dict(TRADE, client_order_id="compat-1",
                                                                              quantity=2))
        self.assertEqual((got["status"], got["pnl"], got["trade_details"]["price"]), ("executed", 0, 101))
        got = self.call("strategy", "POST", "/strategies/first/execute",
                        dict(TRADE, client_order_id="compat-2", quantity=1, side="SELL", price=100))
        self.assertEqual((got["status"], got["order"]["state"]), ("executed", "FILLED"))
        self.assertLess(got["pnl"], 0)

    @difference("POST `/strategies/{id}/execute`: unknown strategy")
    def execute_unknown(self):
        self.refused("strategy", "POST", "/strategies/nobody/execute", TRADE, 404)

    @difference("POST `/strategies/{id}/execute`: not deployed")
    def execute_draft(self):
        self.refused("strategy", "POST", "/strategies/draft/execute", TRADE, 409)

    @difference("POST `/strategies/{id}/execute`: circuit open")
    def execute_open(self):
        def orders():
            return self.call("strategy", "GET", "/orders")["count"]
        before = orders()
        self.call("strategy", "POST", "/hybrid/circuit-breakers/execute/force-open", {})
        try:
            got = self.chain["strategy"].post("/strategies/first/execute", dict(TRADE, client_order_id="compat-3"))
            self.assertEqual(got.status, 503, got)
            self.assertIn("Retry-After", got.headers)
        finally:
            self.call("strategy", "POST", "/hybrid/circuit-breakers/execute/enable", {})
        self.assertEqual(orders(), before)

    @difference("POST `/strategies/{id}/start` without a rule")
    def start_nothing(self):
        self.refused("strategy", "POST", "/strategies/first/start", {}, 409, "no_kind")

    @difference("POST `/strategies/{id}/stop`: pnl")
    def stop_pnl(self):
        self.call("strategy", "POST", "/strategies/cross/deploy", {})
        self.call("strategy", "POST", "/strategies/cross/start", {})
        self.assertEqual(self.call("strategy", "POST", "/strategies/cross/stop", {})["pnl"], 0)

    @difference("POST `/strategies/{id}/test`")
    def strategy_test(self):
        ask = {"test_type": "backtest", "duration_days": 30}
        self.refused("strategy", "POST", "/strategies/first/test", ask, 409, "no_kind")
        self.refused("strategy", "POST", "/strategies/cross/test", dict(ask, test_type="paper_trading"), 422, "not_a_test")
        bars = [{"ts_close": (i + 1) * 60 * 10**9, "open": 5, "high": 6, "low": 4, "close": 5, "volume": 9}
                for i in range(40)]
        got = self.call("strategy", "POST", "/strategies/cross/test", dict(ask, bars=bars))
        self.assertEqual((got["status"], got["strategy_id"], got["test_type"]), ("completed", "cross", "backtest"))
        self.assertEqual((got["result"]["bars"], got["result"]["final_equity"]), (40, "100000"))

    @difference("POST `/risk/critical-check/{id}`: `var_95`")
    def check_var(self):
        got = self.call("risk", "POST", "/risk/critical-check/desk", {"portfolio_value": 100000,
                                                                      "positions": POSITIONS})
        self.assertIsNone(got["risk_result"]["var_95"])
        self.assertIsInstance(got["undefined"]["var_95"], str)

    @difference("POST `/risk/critical-check/{id}`: breaches", "POST `/risk/limits`")
    def limits_hold(self):
        body = {"portfolio_value": 100000, "positions": [{"symbol": "AAPL", "market_value": 40000}]}
        limit = {"limit_id": "compat_lev", "limit_type": "leverage", "limit_value": 0.3, "enabled": True,
                 "portfolio_id": "tight"}

        def broken():
            return [b["breach_type"] for b in self.call("risk", "POST", "/risk/critical-check/tight", body)["breaches"]]
        without = broken()
        self.call("risk", "POST", "/risk/limits", limit)
        self.assertEqual(sorted(broken()), sorted(without + ["leverage"]))
        self.assertEqual(self.call("risk", "POST", "/risk/limits", dict(limit, limit_value=0.5))["status"], "updated")
        self.assertEqual(broken(), without)
        self.call("risk", "DELETE", "/risk/limits?limit_id=compat_lev")

    @difference("POST `/risk/critical-check/{id}` with `{}`")
    def check_live(self):
        account = self.call("portfolio", "GET", "/portfolios/main")
        got = self.call("risk", "POST", "/risk/critical-check/main", {})
        self.assertAlmostEqual(got["risk_result"]["portfolio_value"], account["total_value"], 6)
        self.call("risk", "POST", "/risk/critical-check/nobody", {}, 404)

    @difference("POST `/risk/check/{id}`")
    def check_agrees(self):
        body = {"portfolio_value": 100000, "positions": POSITIONS}
        one, two = [self.call("risk", "POST", f"/risk/{kind}/desk", body) for kind in ("critical-check", "check")]
        for name in ("total_exposure", "leverage", "concentration_ratio", "var_95", "position_count"):
            self.assertEqual(one["risk_result"][name], two["risk_result"][name], name)
        self.assertEqual(one["breaches"], two["breaches"])

    @difference("POST `/risk/portfolio-var/{id}` with `num_simulations`")
    def var(self):
        returns = [((i * 37) % 100 - 50) / 1000 for i in range(100)]
        body = {"positions": [{"symbol": "AAPL", "market_value": 1000}], "returns": returns}
        got = self.call("risk", "POST", "/risk/portfolio-var/desk", dict(body, num_simulations=100000))["var_result"]
        self.assertEqual((got["num_simulations"], got["method"], got["seed"]), (100000, "monte_carlo", 1))
        # By another way: the 5 % quantile of a lognormal law with the mean and deviation of log(1 + r).
        logs = [math.log1p(r) for r in returns]
        law = statistics.NormalDist(statistics.fmean(logs), statistics.stdev(logs))
        self.assertAlmostEqual(got["var_95"], 1000 * math.expm1(law.inv_cdf(0.05)),
                               delta=4 * got["standard_error"]["var_95"])
        self.assertLessEqual(got["expected_shortfall_95"], got["var_95"])
        ask = dict(body, returns=returns[:59], num_simulations=1000)
        self.assertIsNone(self.call("risk", "POST", "/risk/portfolio-var/desk", ask)["var_result"]["var_95"])
        self.refused("risk", "POST", "/risk/portfolio-var/desk", dict(ask, num_simulations=10**12), 400, "out_of_range")
        # Type 7 quantile of the 100 different returns -0.050 ... 0.049: at 0.05 * 99 = 4.95 from the lowest.
        got = self.call("risk", "POST", "/risk/portfolio-var/desk", body)["var_result"]
        self.assertEqual((got["num_simulations"], got["method"]), (0, "historical"))
        self.assertAlmostEqual(got["var_95"], -1000 * 0.04505, 9)

    @difference("GET `/risk/breaches`")
    def breaches(self):
        self.call("risk", "POST", "/risk/limits", {"limit_id": "compat_gross", "limit_type": "gross_exposure",
                                                   "limit_value": 0,
                                                   "enabled": True, "action": "warn", "portfolio_id": "main"})
        self.call("strategy", "POST", "/orders", dict(TRADE, client_order_id="compat-breach", quantity=3))

        def found():
            return [b for b in self.call("risk", "GET", "/risk/breaches?portfolio_id=main&open=true")["breaches"]
                    if b["breach_type"] == "gross_exposure"]
        breach = wait_for(found)[0]
        fields(self, breach, {"breach_id": TEXT, "breach_type": TEXT, "current_value": NUMBER, "limit_value": NUMBER,
                              "severity": TEXT}, "breach")
        self.call("risk", "DELETE", "/risk/limits?limit_id=compat_gross")
        self.assertEqual(self.call("risk", "POST", f"/risk/breaches/{breach['breach_id']}/resolve", {})["status"],
                         "resolved")
        self.assertEqual(found(), [])

    @difference("GET `/risk/monitor/start`")
    def monitor(self):
        self.refused("risk", "GET", "/risk/monitor/start", None, 404)

    @difference("POST `/risk/analytics/report/{id}`")
    def report(self):
        self.refused("risk", "POST", "/risk/analytics/report/main", {}, 404)
        fields(self, self.call("risk", "POST", "/risk/report/main", {}), {"positions": LIST, "breaches": LIST,
                                                                          "limits": LIST}, "report")

    @difference("GET `/features/available`")
    def available(self):
        got = self.call("features", "GET", "/features/available")
        self.assertEqual(got["count"], len(got["features"]))
        for name in ("garch_vol", "vol_regime", "williams_r", "volume_profile"):
            self.assertNotIn(name, got["features"])
        computed = self.call("features", "POST", "/features/calculate/AAPL", {
            "prices": PRICES, "volumes": VOLUMES, "highs": PRICES, "lows": PRICES})
        self.assertEqual(set(computed["feature_set"]["features"]) | set(computed["not_ready"]), set(got["features"]))

    @difference("POST `/features/calculate/{symbol}` without `prices`")
    def no_prices(self):
        self.refused("features", "POST", "/features/calculate/NOBODY", {}, 404)
        self.call("features", "POST", "/features/calculate/NOBODY", {"prices": []}, 400)

    @difference("POST `/features/calculate/{symbol}`: `confidence`",
                "POST `/features/calculate/{symbol}`: too few prices")
    def confidence(self):
        one, two = [self.call("features", "POST", "/features/calculate/AAPL", {"prices": PRICES, "volumes": VOLUMES})
                    ["feature_set"]["features"] for _ in range(2)]
        self.assertEqual(one, two)
        for name, f in one.items():
            self.assertTrue(0 < f["confidence"] <= 1, name)
        self.assertEqual(one["sma_20"]["confidence"], 1)
        few = self.call("features", "POST", "/features/calculate/AAPL", {"prices": PRICES[:4]})
        self.assertNotIn("sma_20", few["feature_set"]["features"])
        self.assertEqual(few["not_ready"]["sma_20"], {"have": 4, "need": 20})

    @difference("POST `/features/technical/{symbol}`: `macd_signal`")
    def macd_signal(self):
        got = self.call("features", "POST", "/features/technical/AAPL", {"prices": PRICES})["features"]
        self.assertNotAlmostEqual(got["macd_signal"]["value"], 0.9 * got["macd"]["value"], 9)
        self.assertAlmostEqual(got["macd_histogram"]["value"], got["macd"]["value"] - got["macd_signal"]["value"], 9)
        few = self.call("features", "POST", "/features/technical/AAPL", {"prices": PRICES[:27]})
        self.assertIn("macd", few["features"])
        self.assertIn("macd_signal", few["not_ready"])

    @difference("POST `/features/technical/{symbol}`: `realized_vol`, `volume_sma`, `ema_20`")
    def renamed(self):
        got = self.call("features", "POST", "/features/technical/AAPL", {"prices": PRICES,
                                                                         "volumes": VOLUMES})["features"]
        for name in ("realized_vol", "volume_sma", "ema_20"):
            self.assertNotIn(name, got)
        self.assertAlmostEqual(got["volume_sma_20"]["value"], sum(VOLUMES[-20:]) / 20, 9)
        returns = [math.log(b / a) for a, b in zip(PRICES[-21:], PRICES[-20:])]
        self.assertAlmostEqual(got["realized_vol_20"]["value"], statistics.stdev(returns), 9)
        for n in (12, 26):
            ema = sum(PRICES[:n]) / n
            for p in PRICES[n:]:
                ema += (p - ema) * 2 / (n + 1)
            self.assertAlmostEqual(got[f"ema_{n}"]["value"], ema, 9)

    @difference("POST `/features/technical/{symbol}`: `rsi_14`")
    def rsi(self):
        change = [b - a for a, b in zip(PRICES, PRICES[1:])]
        gain, loss = [sum(max(s * c, 0) for c in change[:14]) / 14 for s in (1, -1)]
        for c in change[14:]:
            gain, loss = (gain * 13 + max(c, 0)) / 14, (loss * 13 + max(-c, 0)) / 14
        got = self.call("features", "POST", "/features/technical/AAPL",
                        {"prices": PRICES})["features"]["rsi_14"]["value"]
        self.assertAlmostEqual(got, 100 - 100 / (1 + gain / loss), 9)

    @difference("POST `/features/fundamental/{symbol}`")
    def fundamental(self):
        one, two = [self.call("features", "POST", "/features/fundamental/AAPL", {"pe_ratio": 20}) for _ in range(2)]
        self.assertEqual(one["features"], two["features"])
        self.assertEqual(one["features"]["earnings_yield"]["value"], 0.05)
        self.assertIn("market_cap_log", one["undefined"])
        for name in ("roe", "debt_to_equity", "revenue_growth"):
            self.assertNotIn(name, one["features"])

    @difference("POST `/features/batch`: an unknown symbol")
    def batch(self):
        got = self.call("features", "POST", "/features/batch", {"symbols": ["AAPL", "NOBODY"],
                                                                "market_data": {"AAPL": {"prices": PRICES}}})
        self.assertIsNone(got["results"]["NOBODY"])
        self.assertEqual((got["batch_size"], got["processed"]), (2, 1))

    @difference("POST `/feeds` with `symbol`, `data_source`, `data_types`")
    def feeds(self):
        got = self.call("marketdata", "POST", "/feeds", {"symbol": "fed", "data_source": "ibkr",
                                                         "data_types": ["tick"]})
        self.assertEqual((got["kind"], got["data_source"], got["state"]), ("ingest", "ibkr", "STARTED"))
        self.ingest({"symbol": "FED"})
        feed = self.call("marketdata", "GET", f"/feeds/{got['feed_id']}")
        self.assertEqual(feed["trades"], 1)

    def ingest(self, change, status=200):
        item = {"symbol": "ROW", "data_type": "trade", "source": "mock", "timestamp": time.time_ns() - 10**6,
                "data": {"price": 1, "size": 1}}
        item.update(change)
        return self.call("marketdata", "POST", "/data/ingest", {"data": [{k: v for k,
                                                                          v in item.items() if v is not None}]}, status)

    def rejected(self, change, field):
        got = self.ingest(change, 422)["rejected"]
        self.assertEqual([(r["index"], r["field"]) for r in got], [(0, field)])
        return got[0]["code"]

    @difference("POST `/data/ingest` without `timestamp`")
    def no_stamp(self):
        self.assertEqual(self.rejected({"timestamp": None}, "timestamp"), "missing")

    @difference("POST `/data/ingest` with a stamp ahead of the clock")
    def future(self):
        self.rejected({"timestamp": time.time_ns() + 10**12}, "timestamp")

    @difference("POST `/data/ingest`: a bad item")
    def bad_item(self):
        good = {"symbol": "ROW", "data_type": "trade", "timestamp": time.time_ns() - 10**6,
                "data": {"price": 1, "size": 1}}
        got = self.call("marketdata", "POST", "/data/ingest", {"data": [good, dict(good,
                                                                                   data={"price": -1, "size": 1})]})
        self.assertEqual((got["status"], got["count"]), ("partial", 1))
        self.assertEqual([(r["index"], r["code"], r["field"]) for r in got["rejected"]], [(1, "out_of_range", "price")])
        self.assertEqual(self.rejected({"data": {"price": -1, "size": 1}}, "price"), "out_of_range")

    @difference("POST `/data/ingest` with `data_type` `news`")
    def news(self):
        self.assertEqual(self.rejected({"data_type": "news", "data": {"headline": "x"}}, "data_type"), "unsupported")

    @difference("GET `/data/{symbol}` of an unknown symbol")
    def unknown_symbol(self):
        self.refused("marketdata", "GET", "/data/NOBODY", None, 404)

    @difference("POST `/subscriptions` with `callback_url`")
    def subscriptions(self):
        got = self.call("marketdata", "POST", "/subscriptions", {"symbols": ["AAPL", "ROW"], "data_types": ["quote"],
                                                                 "callback_url": "http://127.0.0.1:1/never"})
        self.assertEqual(got["ignored"], ["callback_url"])
        self.call("marketdata", "POST", "/subscriptions", {})

    @difference("POST `/symbols/{symbol}/snapshot`: `daily_stats`")
    def snapshot(self):
        now = time.time_ns() - 10**9
        for i, price in enumerate((10, 12, 9, 11)):
            self.ingest({"symbol": "DAY", "timestamp": now + i, "data": {"price": price, "size": 2}})
        day = self.call("marketdata", "POST", "/symbols/DAY/snapshot", {})["daily_stats"]
        self.assertEqual([float(day[k]) for k in ("open", "high", "low", "close", "volume")], [10, 12, 9, 11, 8])
        self.ingest({"symbol": "QUIET", "data_type": "quote", "data": {"bid": 1, "bid_size": 1, "ask": 2,
                                                                       "ask_size": 1}})
        self.assertIsNone(self.call("marketdata", "POST", "/symbols/QUIET/snapshot", {})["daily_stats"])

    @difference("POST `/portfolios` with `cash_balance` unlike `initial_value`")
    def cash(self):
        self.refused("portfolio", "POST", "/portfolios", {"portfolio_name": "x", "initial_value": 2,
                                                          "cash_balance": 1}, 400)

    @difference("POST `/portfolios/{id}/positions`")
    def positions(self):
        pid = self.call("portfolio", "POST", "/portfolios", {"portfolio_name": "open",
                                                             "initial_value": 1000})["portfolio_id"]
        body = {"positions": {"AAPL": {"quantity": 2, "market_value": 999, "avg_cost": 90, "unrealized_pnl": 777}}}
        got = self.call("portfolio", "POST", f"/portfolios/{pid}/positions", body)
        self.assertEqual(sorted(got["ignored"]), ["market_value", "unrealized_pnl"])
        self.assertEqual(got["ledger"]["sum"], "0")
        self.assertEqual((got["positions"][0]["quantity"], got["positions"][0]["avg_cost"]), ("2", "90"))
        self.assertNotEqual(got["positions"][0]["market_value"], "999")
        self.refused("portfolio", "POST", f"/portfolios/{pid}/positions", body, 409)
        kinds = [e["kind"] for e in self.call("portfolio", "GET", f"/portfolios/{pid}/ledger")["entries"]]
        self.assertIn("opening", kinds)

    @difference("GET `/portfolios/{id}/performance`")
    def performance(self):
        got = self.call("portfolio", "GET", "/portfolios/main/performance?period_days=365")
        for name in ("total_return_pct", "volatility_pct", "sharpe_ratio", "max_drawdown_pct"):
            self.assertIn(name, got)
            if got[name] is None:
                self.assertIsInstance(got["undefined"][name], str)
        self.assertIsNone(got["volatility_pct"], "one day has no volatility")

    @difference("POST `/portfolios/{id}/optimize`")
    def optimize(self):
        self.refused("portfolio", "POST", "/portfolios/main/optimize", {"method": "max_sharpe"}, 404)

    @difference("POST `/portfolios/{id}/rebalance`")
    def rebalance(self):
        self.refused("portfolio", "POST", "/portfolios/main/rebalance", {"target_weights": {"AAPL": 1}}, 404)

    @difference("GET `/portfolios/{id}/optimization-history`")
    def history(self):
        self.refused("portfolio", "GET", "/portfolios/main/optimization-history", None, 404)

    REALTIME = {"status": TEXT, "processing_time_ms": NUMBER, "complexity": TEXT, "real_time_path": FLAG,
                "result": {"metrics": {"total_value": NUMBER, "daily_change_pct": NUMBER_OR_NULL,
                                       "sharpe_ratio": NUMBER_OR_NULL, "volatility_pct": NUMBER_OR_NULL,
                                       "max_drawdown_pct": NUMBER_OR_NULL},
                           "complexity": TEXT, "data_points_processed": NUMBER}}

    @difference("POST `/analytics/realtime/{id}`: the figures",
                "POST `/analytics/realtime/{id}`: `data_points_processed`",
                "POST `/analytics/realtime/{id}`: `risk_analysis`, `stress_testing`, `attribution_analysis`")
    def realtime(self):
        value = self.call("portfolio", "GET", "/portfolios/main")["total_value"]
        for level in ("simple", "standard", "comprehensive", "institutional"):
            got = self.call("analytics", "POST", "/analytics/realtime/main", {"complexity": level})
            self.assertEqual(got["complexity_requested"], level)
            metrics, result = got["result"]["metrics"], got["result"]
            self.assertEqual(metrics["total_value"], value)
            if level != "simple":
                fields(self, got, self.REALTIME, level)
            for name, figure in metrics.items():
                self.assertEqual(figure is None, name in got.get("undefined", {}), name)
            # Points, not what a level is said to need: the opening, and at most one a minute from then on.
            self.assertIn(result["data_points_processed"], range(1, 20))
        if got["complexity"] == "institutional":
            self.assertTrue(0 <= result["risk_analysis"]["concentration_risk"] <= 1)
            for name in ("stress_testing", "attribution_analysis", "country_exposure"):
                self.assertIsNone(result[name])
                self.assertIsInstance(got["undefined"][name], str)

    @difference("POST `/analytics/realtime/{id}` of an unknown portfolio")
    def realtime_unknown(self):
        self.refused("analytics", "POST", "/analytics/realtime/nobody", {"complexity": "simple"}, 404)

    @difference("POST `/analytics/realtime/{id}`: no time for the level")
    def realtime_late(self):
        for ms in (1, 2, 3, 5, 20, 100):
            got = self.chain["analytics"].ask("POST", "/analytics/realtime/main", {"complexity": "institutional"},
                                              {"X-Deadline-Ms": str(ms)})
            self.assertIn(got.status, (200, 503, 504), got)
            if got.status == 200:
                self.assertEqual(got.json["fallback"], "fallback_reason" in got.json)
                self.assertTrue(got.json["complexity"] == "institutional" or got.json["fallback"], got)

    @difference("POST `/analytics/performance/{id}`")
    def analytics_performance(self):
        got = self.call("analytics", "POST", "/analytics/performance/main", {"symbol": "aapl", "period_days": 30})
        self.assertEqual((got["result"]["data_source"], got["basis"]["benchmark"]), ("portfolio", "AAPL"))
        for name in ("total_return_pct", "sharpe_ratio", "max_drawdown_pct", "volatility_pct", "beta", "alpha",
                     "calmar_ratio", "sortino_ratio", "win_rate_pct", "profit_factor", "period_start", "period_end"):
            self.assertEqual(got["result"][name] is None, name in got["undefined"], name)
        self.refused("analytics", "POST", "/analytics/performance/nobody", {}, 404)

    @difference("GET `/analytics/technical-indicators/{symbol}` with `limit`")
    def indicators(self):
        self.refused("analytics", "GET", "/analytics/technical-indicators/NOBODY?limit=100", None, 404)
        self.bars(["IND"], "5m", 300)  # not of the kind that factor's universe is made of
        got = self.call("analytics", "GET", "/analytics/technical-indicators/ind?limit=100")
        self.assertEqual((got["symbol"], got["ignored"]), ("IND", ["limit"]))
        theirs = self.call("features", "GET", "/features/IND")["feature_set"]["features"]
        for name in ("sma_20", "ema_12", "ema_26", "rsi_14", "macd", "macd_signal", "macd_histogram", "atr_14"):
            self.assertEqual(got["indicators"][name], theirs[name]["value"], name)
        self.assertEqual(got["indicators"]["bollinger_bands"], {k: theirs[f"bb_{k}"]["value"] for k in
                                                                ("upper", "middle", "lower")})

    @difference("GET `/analytics/performance-metrics/{symbol}`, `/analytics/market-data/{symbol}`, "
                "`/analytics/available-symbols`, POST `/analytics/calculate/{id}`")
    def analytics_simple(self):
        for path in ("performance-metrics/AAPL?period_days=30", "market-data/AAPL?limit=5", "available-symbols"):
            self.refused("analytics", "GET", f"/analytics/{path}", None, 404)
        self.refused("analytics", "POST", "/analytics/calculate/main", {}, 404)
        self.assertEqual(self.call("analytics", "GET", "/analytics/symbol/IND")["symbol"], "IND")  # of the row before

    @difference("GET `/factors/definitions`")
    def definitions(self):
        got = self.call("factor", "GET", "/factors/definitions")
        names = [d["factor_id"] for d in got["definitions"]]
        self.assertEqual(sorted(names), ["liquidity", "momentum", "reversal", "size", "volatility"])
        self.assertTrue(all(d["formula"] for d in got["definitions"]))

    def bars(self, symbols, spec, seconds):
        """Forty closed bars each, which the features engine has handled."""
        want = handled(self.chain["features"], "bar") + 40 * len(symbols)
        end = time.time_ns() // (seconds * 10**9) * seconds * 10**9
        for t in range(40):
            for i, symbol in enumerate(symbols):
                price = 100 + 10 * i + (t * (i + 3)) % 7
                self.ingest({"symbol": symbol, "data_type": "bar", "timestamp": end - (39 - t) * seconds * 10**9,
                             "data": {"spec": spec, "open": price, "high": price, "low": price, "close": price,
                                      "volume": 5 + (t + i) % 3}})
        wait_for(lambda: handled(self.chain["features"], "bar") >= want)

    def factor_bars(self, symbols):
        """Waits until the factor engine has the last of them."""
        self.bars(symbols, "1m", 60)
        wait_for(lambda: self.chain["factor"].get(f"/factors/results/{symbols[-1]}").status != 404)

    @difference("POST `/factors/calculate/{symbol}`: what it does", "POST `/factors/correlations`")
    def factor_calculate(self):
        if self.chain["factor"].get("/factors/results/FACE").status == 200:
            return  # the other of the two rows was here
        self.refused("factor", "POST", "/factors/calculate/NOBODY", ["momentum"], 404, "unknown_symbol")
        self.factor_bars(["FACA", "FACB", "FACC", "FACD"])
        self.refused("factor", "POST", "/factors/calculate/FACA", ["momentum"], 422, "universe_too_small")
        self.refused("factor", "POST", "/factors/correlations", None, 422, "universe_too_small")
        self.factor_bars(["FACE"])
        wait_for(lambda: self.chain["factor"].get("/factors/results/FACE").status == 200)
        got = self.call("factor", "POST", "/factors/calculate/FACA", ["momentum", "volatility"])
        fields(self, got, {"status": TEXT, "symbol": TEXT, "requested_factors": NUMBER}, "calculate")
        self.assertEqual((got["status"], got["requested_factors"]), ("completed", 2))
        got = self.call("factor", "GET", "/factors/results/FACA")
        for r in got["results"]:
            fields(self, r, {"factor_id": TEXT, "symbol": TEXT, "timestamp": TEXT, "value": NUMBER, "confidence": NUMBER,
                             "data_age_seconds": NUMBER, "calculation_time_ms": NUMBER}, "results")
        got = self.call("factor", "POST", "/factors/correlations")
        self.assertEqual(got["correlations"]["size"]["size"], 1)
        self.assertEqual(got["correlations"]["size"]["momentum"], got["correlations"]["momentum"]["size"])

    @difference("POST `/factors/calculate/{symbol}` with a name of the 516")
    def factor_unknown(self):
        got = self.refused("factor", "POST", "/factors/calculate/AAPL", ["TF5_SMA_20"], 400, "unknown_factor",
                           "factor_ids[0]")
        self.assertIn("TF5_SMA_20", got["detail"])

    @difference("GET `/factors/categories/{category}` of an unknown category")
    def factor_category(self):
        self.assertEqual(self.call("factor", "GET", "/factors/categories/technical")["count"], 3)
        self.refused("factor", "GET", "/factors/categories/macro", None, 404, "unknown_category")

    @difference("GET `/factors/results/{symbol}` of an unknown symbol")
    def factor_results(self):
        self.refused("factor", "GET", "/factors/results/NOBODY", None, 404, "unknown_symbol")

    @difference("POST `/ml/critical-predict/{id}` of a model that is not trained",
                "POST `/ml/critical-predict/{id}` without `symbol` and `features`")
    def predictions(self):
        for model in ("price_model_v2_hybrid", "regime_detector_v3_neural", "risk_predictor_neural",
                      "portfolio_optimizer_hybrid"):
            for path in ("critical-predict", "predict"):
                self.refused("ml", "POST", f"/ml/{path}/{model}", {"symbol": "AAPL", "current_price": 100,
                                                                   "portfolio_value": 100000}, 422, "model_disabled")
        for model in ("volatility_forecaster_hybrid", "anomaly_detector_neural"):
            self.refused("ml", "POST", f"/ml/critical-predict/{model}", {"current_price": 100}, 422, "missing", "symbol")

    @difference("POST `/ml/predict/price`, `/ml/predict/regime`, `/ml/predict/volatility`")
    def by_subject(self):
        body = {"symbol": "NOBODY", "current_price": 100, "time_horizon": "1h"}
        for subject, code in (("price", "model_disabled"), ("regime", "model_disabled"), ("volatility", "missing")):
            self.refused("ml", "POST", f"/ml/predict/{subject}", body, 422, code)

    @difference("POST `/ml/batch-inference` with more than 50 inputs")
    def batch_inference(self):
        self.refused("ml", "POST", "/ml/batch-inference", {"model_id": "price_model", "inputs": [{}] * 1001}, 400,
                     "too_many", "inputs")
        got = self.call("ml", "POST", "/ml/batch-inference", {"model_type": "price_prediction", "inputs": [{}] * 1000})
        self.assertEqual((got["batch_size"], len(got["results"])), (1000, 1000))
        for i in (0, 49, 50, 999):
            fields(self, got["results"][i], {"index": NUMBER, "success": FLAG, "processing_time_ms": NUMBER},
                   f"results[{i}]")

    @difference("GET `/models`: `accuracy`")
    def models(self):
        got = self.call("ml", "GET", "/models")
        self.assertEqual(got["count"], 6)
        for m in got["models"]:
            fields(self, m, {"model_id": TEXT, "model_type": TEXT, "enabled": FLAG}, m["model_id"])
            self.assertIsNone(m["accuracy"])

    MESSAGE = {"message_id": TEXT, "type": TEXT, "topic": TEXT, "data": MAP, "timestamp": TEXT}

    def client(self, path="/ws/stream", **more):
        c = wsclient.Client(self.chain["websocket"].port, path, **more)
        self.addCleanup(c.close)
        return c

    def follower(self, topic, **more):
        c = self.client(**more)
        fields(self, c.recv(), self.MESSAGE, "welcome")
        c.say({"type": "subscribe", "topics": [topic]})
        return c

    def broadcast(self, topic, data):
        return self.call("websocket", "POST", "/broadcast", {"topic": topic, "data": data, "message_type": "risk_alert"})

    @difference("POST `/broadcast` to a topic of the system")
    def broadcasts(self):
        for topic in ("strategy.critical.fill", "risk_alerts"):
            self.refused("websocket", "POST", "/broadcast", {"topic": topic, "data": {"x": 1}}, 403, "not_a_user_topic",
                         "topic")
        c = self.follower("user.news")
        c.recv()
        sent = self.broadcast("user.news", {"x": 1})
        fields(self, sent, {"message_id": TEXT, "topic": TEXT, "recipients": NUMBER}, "broadcast")
        self.assertEqual(sent["recipients"], 1)
        got = c.recv()
        fields(self, got, self.MESSAGE, "data")
        self.assertEqual((got["type"], got["data"]), ("risk_alert", {"x": 1}))

    @difference("`/ws/stream`: `subscribe` to a topic that there is not")
    def unknown_topic(self):
        c = self.follower("market_data_btc")
        got = c.recv()
        self.assertEqual((got["type"], got["topic"], got["data"]["code"]), ("error", "market_data_btc", "bad_topic"))
        c.say({"type": "heartbeat"})
        self.assertEqual(c.recv()["type"], "heartbeat")

    @difference("`/ws/stream`: a client that does not read")
    def slow_reader(self):
        slow, other = self.follower("user.slow", receive_buffer=4096), self.follower("user.slow")
        self.assertEqual([c.recv()["type"] for c in (slow, other)], ["subscription"] * 2)
        for i in range(250):
            self.broadcast("user.slow", {"i": i, "pad": "x" * 8000})
            self.assertEqual(other.recv()["data"]["i"], i)
        read = 0
        while "event" not in (got := slow.recv())["data"]:
            self.assertEqual(got["data"]["i"], read)
            read += 1
        self.assertEqual(got["data"], {"event": "gap", "missed": 250 - read, "reason": "slow_client"})

    @difference("`/ws/stream`: a silent connection")
    def silent(self):
        c = self.client()
        c.recv()
        opcode, payload = c.recv_frame()  # WS_PING_MS of this chain is 1000
        self.assertEqual((opcode, payload), (wsclient.PING, b"keel"))
        self.assertEqual(c.recv_frame()[0], wsclient.PING)
        self.assertIsNone(c.recv())
        self.assertEqual((c.close_code, c.close_reason), (1008, "no_pong"))

    @difference("`/ws/market-data/{symbol}`")
    def market_stream(self):
        c = self.client("/ws/market-data/aapl")
        got = c.recv()
        fields(self, got, {"message_type": TEXT, "symbol": TEXT, "timestamp": TEXT, "data": {
            "symbol": TEXT, "price": NUMBER, "bid": NUMBER, "ask": NUMBER, "volume": NUMBER, "timestamp": TEXT}}, "first")
        self.assertEqual((got["data"]["price"], got["data"]["bid"], got["data"]["ask"]), (100.5, 100, 101))
        with self.assertRaises(wsclient.Refused) as refused:
            self.client("/ws/market-data/A%20B")
        self.assertEqual(refused.exception.status, 400)

    @difference("`/ws/stream` from a page of another site")
    def other_site(self):
        with self.assertRaises(wsclient.Refused) as refused:
            self.client(headers={"Origin": "http://evil.example"})
        self.assertEqual(refused.exception.status, 403)


if __name__ == "__main__":
    unittest.main(verbosity=2)
