"""The bodies of the critical operations, field by field: names, JSON types, signs and every figure that follows from
the input. Each exchange is made with hybrid and with plain engines, and the two answers must be the same."""
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
import unittest
from decimal import Decimal
from fractions import Fraction

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
import wsclient  # noqa: E402
from keeltest import ENGINES, Chain, handled, wait_for  # noqa: E402

CHAIN = ["portfolio", "risk", "strategy", "features", "marketdata"]
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")


class Num(str):
    """A JSON number by its digits, so that it can be told from a string and compared digit by digit."""


def loads(text):
    return json.loads(text, parse_float=Num, parse_int=Num)


def stamp(ns):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + ".%09dZ" % (ns % 10**9)


# ---- what is checked by kind, not by value ----

def a_number(test, v, where):
    test.assertIsInstance(v, Num, where)


def a_time_span(test, v, where):
    test.assertIsInstance(v, Num, where)
    test.assertGreaterEqual(Decimal(v), 0, where)


def a_stamp(test, v, where):
    test.assertIsInstance(v, str, where)
    test.assertNotIsInstance(v, Num, where)
    test.assertRegex(v, STAMP, where)


def a_text(test, v, where):
    test.assertIsInstance(v, str, where)
    test.assertNotIsInstance(v, Num, where)
    test.assertTrue(v, where)


def a_bool(test, v, where):
    test.assertIsInstance(v, bool, where)


def a_hash(test, v, where):
    test.assertRegex(v, r"^[0-9a-f]{16}$", where)


KINDS = {"timestamp": a_stamp, "ts_event": a_stamp, "as_of": a_stamp, "since": a_stamp, "check_timestamp": a_number,
         "venue_order_id": a_text, "entry_id": a_number, "schema_hash": a_hash, "meets_sla": a_bool,
         "processing_time_ms": a_time_span, "execution_time_ms": a_time_span, "latency_ms": a_time_span}
# What two runs of the same requests may answer differently.
LIVELY = re.compile(r"(_ms|_seconds)$|^(check_timestamp|venue_order_id|trade_id|entry_id|trace_id|meets_sla|replayed|"
                    r"hybrid_optimized|prediction_id)$")


def scrub(v):
    if isinstance(v, dict):
        return {k: type(x).__name__ if LIVELY.search(k) else scrub(x) for k, x in v.items()}
    if isinstance(v, list):
        return [scrub(x) for x in v]
    return "a stamp" if isinstance(v, str) and STAMP.fullmatch(v) else v


def same(test, want, got, kinds=KINDS, where="$"):
    """got has every member of want, of the same JSON type and value; more members than that are no breach."""
    test.assertIs(type(got), type(want), f"{where}: {got!r} where {want!r} was promised")
    if isinstance(want, dict):
        for k, w in want.items():
            test.assertIn(k, got, where)
            if k in kinds:
                kinds[k](test, got[k], f"{where}.{k}")
            else:
                same(test, w, got[k], kinds, f"{where}.{k}")
    elif isinstance(want, list):
        test.assertEqual(len(got), len(want), f"{where}: {got}")
        for i, w in enumerate(want):
            same(test, w, got[i], kinds, f"{where}[{i}]")
    elif isinstance(want, Num):
        test.assertNotRegex(got, "[eE]", where)
        test.assertEqual(Decimal(got), Decimal(want), where)
    else:
        test.assertEqual(got, want, where)


def problem(test, got, status, code=None, field=None, ran=True):
    """An error of RFC 9457 with the first version's `detail` string; ran: by an op, so that there is a trace."""
    test.assertEqual(got.status, status, got)
    test.assertEqual(got.headers.get("Content-Type"), "application/problem+json", got)
    for name in ("type", "title", "detail", "code") + (("trace_id",) if ran else ()):
        test.assertIsInstance(got.json.get(name), str, f"{name} of {got}")
    test.assertEqual(got.json["status"], status)
    if code:
        test.assertEqual(got.json["code"], code, got)
    if field:
        test.assertEqual(got.json.get("field"), field, got)
    return got


def simulated_pair(value, covariance, n, seed):
    """Profits of two positions with lognormal prices, the lowest first, as docs/decisions/monte-carlo.md has it: eight
    lanes of xoshiro256++ seeded by splitmix64, Box and Muller's normals, blocks of 64 simulations, a row a position."""
    def word(x):
        return x & (1 << 64) - 1

    def rotate(x, k):
        return word(x << k) | x >> 64 - k

    def seeds(state):
        while True:
            z = state = word(state + 0x9E3779B97F4A7C15)
            z = word((z ^ z >> 30) * 0xBF58476D1CE4E5B9)
            z = word((z ^ z >> 27) * 0x94D049BB133111EB)
            yield z ^ z >> 31

    def draw(s):
        result = word(rotate(word(s[0] + s[3]), 23) + s[0])
        t = word(s[1] << 17)
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = rotate(s[3], 45)
        return result

    def row():
        out = []
        for _ in range(4):
            polar = [(math.sqrt(-2 * math.log(1 - (draw(s) >> 12) * 2**-52)), draw(s)) for s in lanes]
            turns = [(r, ((bits >> 62) + (word(bits << 2) >> 12) * 2**-52 - 0.5) * math.pi / 2) for r, bits in polar]
            out += [r * math.cos(a) for r, a in turns] + [r * math.sin(a) for r, a in turns]
        return out

    source = seeds(seed)
    lanes = [[next(source) for _ in range(4)] for _ in range(8)]
    l00 = math.sqrt(covariance[0])
    l10 = covariance[2] / l00
    l11 = math.sqrt(covariance[3] - l10 * l10)
    profits = []
    while len(profits) < n:
        profits += [value[0] * math.expm1(l00 * x) + value[1] * math.expm1(l10 * x + l11 * y)
                    for x, y in zip(row(), row())]
    return sorted(profits[:n])


class Pair(unittest.TestCase):
    """The same requests to a hybrid and to a plain chain."""
    names = CHAIN
    args = {}

    @classmethod
    def setUpClass(cls):
        class Owner:
            addCleanup = cls.addClassCleanup
        cls.modes = [Chain(Owner, cls.names, env={"ENABLE_HYBRID": "true"}, args=cls.args),
                     Chain(Owner, cls.names, plain=cls.names, args=cls.args)]

    def both(self, engine, method, path, body=None, headers=None):
        """The hybrid engine's answer, once the plain one's is found to be the same."""
        hybrid, plain = [c[engine].call(method, path, body, headers) for c in self.modes]
        self.assertEqual(hybrid.status, plain.status, f"{method} {path}: hybrid {hybrid}, plain {plain}")
        hybrid.nums, plain.nums = loads(hybrid.body), loads(plain.body)
        self.assertEqual(scrub(hybrid.nums), scrub(plain.nums), f"{method} {path} differs between the modes")
        for got, optimized in ((hybrid, True), (plain, False)):
            if got.status == 200 and "performance" in got.json and "hybrid_optimized" in got.json["performance"]:
                self.assertIs(got.json["performance"]["hybrid_optimized"], optimized)
        return hybrid

    def post(self, engine, path, body, headers=None):
        return self.both(engine, "POST", path, body, headers)

    def get(self, engine, path, headers=None):
        return self.both(engine, "GET", path, None, headers)

    def ingest(self, *items):
        got = self.post("marketdata", "/data/ingest", {"data": list(items)})
        self.assertEqual((got.status, got.json["status"]), (200, "ingested"), got)
        return got

    def quote(self, symbol, bid, bid_size, ask, ask_size):
        """Ingests a quote and returns when all that follow quotes have handled it."""
        follow = [n for n in ("strategy", "risk", "portfolio", "websocket") if n in self.names]
        before = [(c[n], handled(c[n], "quote")) for c in self.modes for n in follow]
        self.ingest({"symbol": symbol, "data_type": "quote", "source": "internal", "timestamp": time.time_ns(),
                     "latency_ms": 1.2, "data": {"bid": bid, "bid_size": bid_size, "ask": ask, "ask_size": ask_size}})
        for e, n in before:
            wait_for(lambda e=e, n=n: handled(e, "quote") > n)

    def filled(self, portfolio, fills):
        """Waits until portfolio and risk know so many fills of it."""
        for c in self.modes:
            wait_for(lambda c=c: c["portfolio"].get(f"/portfolios/{portfolio}").json["fills"] == fills)
            wait_for(lambda c=c: c["risk"].post(f"/risk/report/{portfolio}").json["fills"] == fills)


# ---- the examples ----

INGESTED = loads("""{"status":"partial","count":1,"total_stored":1843,
 "rejected":[{"index":1,"code":"out_of_range","field":"price","detail":"price must be > 0"}]}""")

CALCULATE = {"prices": [61650.1, 61655.4, 61648.0, 61659.7], "volumes": [12.1, 8.4, 9.9, 10.2],
             "current_price": 61659.75,
             "spec": "1m"}
CALCULATED = loads("""{"status":"completed","symbol":"BTCUSDT",
 "feature_set":{"timestamp":"2026-11-22T17:51:04.120000000Z",
 "total_features":1,"features":{"vwap":{"value":61653.0963,"type":"volume","confidence":1.0}}},
 "processing_time_ms":0.041,
 "basis":"supplied","not_ready":{"sma_20":{"have":4,"need":20}},"schema_hash":"9f2c41d07ab3e655"}""")

ORDER = {"client_order_id": "desk-20261122-0001", "symbol": "BTCUSDT", "side": "BUY", "quantity": "0.5",
         "order_type": "LIMIT",
         "price": "61660", "time_in_force": "IOC", "reduce_only": False}
EXECUTED = loads("""{"status":"executed","execution_id":"desk-20261122-0001","strategy_id":"manual","pnl":0,
 "execution_time_ms":1.84,
 "trade_details":{"symbol":"BTCUSDT","quantity":0.5,"side":"BUY","price":61659.8},
 "performance":{"latency_ms":1.84,"hybrid_optimized":true,"meets_sla":true},"replayed":false,"fallback":false,
 "order":{"client_order_id":"desk-20261122-0001","venue_order_id":"PAPER-1042","venue":"paper","portfolio_id":"main",
  "symbol":"BTCUSDT","side":"BUY","order_type":"LIMIT","time_in_force":"IOC","state":"FILLED","quantity":"0.5",
  "filled_quantity":"0.5","leaves_quantity":"0","price":"61660","avg_fill_price":"61659.8",
  "fee":{"amount":"12.33196","currency":"USDT"},"realized_pnl":"0","ts_event":"2026-11-22T17:51:04.123456789Z",
  "fills":[{"trade_id":"PAPER-7781","quantity":"0.5","price":"61659.8","fee":{"amount":"12.33196","currency":"USDT"},
            "liquidity":"TAKER"}]}}""")
ORDER_KINDS = dict(KINDS, trade_id=a_text)

PRE_TRADE = {"order": {"client_order_id": "desk-20261122-0001", "strategy_id": "manual", "symbol": "BTCUSDT",
                       "side": "BUY", "quantity": "0.5", "order_type": "LIMIT", "price": "61660"}, "reserve": True}
CHECKED = loads("""{"status":"completed","portfolio_id":"main","risk_result":{"portfolio_id":"main","total_exposure":0,
  "portfolio_value":1000000,"leverage":0,"concentration_ratio":0,"var_95":null,"position_count":0,
  "check_timestamp":1795369864.123,"processing_time_ms":0.031,"critical_path":true},
 "breaches":[],"processing_time_ms":0.094,"critical_path":true,
 "decision":{"approved":true,"basis":"live","trading_state":"ACTIVE","client_order_id":"desk-20261122-0001",
 "reserved":true,
  "as_of":"2026-11-22T17:51:04.120000000Z","denials":[]}}""")
CHECK = loads('{"limit_id":"pos_btc","limit_type":"position_size","limit":"2","value":"0.5","headroom":"1.5"}')
DENIAL = loads('{"code":"POSITION_SIZE","limit_id":"pos_btc","limit":"2","value":"2.5","headroom":"-0.5"}')

FILL = {"trade_id": "PAPER-7781", "client_order_id": "desk-20261122-0001", "strategy_id": "manual", "venue": "paper",
        "symbol": "BTCUSDT", "side": "BUY", "quantity": "0.5", "price": "61659.8",
        "fee": {"amount": "12.33196", "currency": "USDT"}, "ts_event": "2026-11-22T17:51:04.123456789Z"}
APPLIED = loads("""{"status":"applied","portfolio_id":"desk","trade_id":"PAPER-7781",
 "position":{"symbol":"BTCUSDT","quantity":"0.5","avg_cost":"61659.8","mark":"61659.75","market_value":"30829.875",
  "realized_pnl":"0","unrealized_pnl":"-0.025"},
 "account":{"currency":"USDT","cash":"969157.76804","equity":"999987.64304","realized_pnl":"0",
 "unrealized_pnl":"-0.025",
  "fees":"12.33196","equity_change":"-12.35696"},
 "ledger":{"entry_id":2210,"sum":"0"}}""")


PREDICTED = loads("""{"status":"success","prediction_id":"P-000018f2-41","model_id":"price_model",
 "prediction":{"direction":"UP","change_percent":0.0002,"target_price":61672.08195,"confidence":0.56,
  "used_hardware":"CPU","critical_path":true},
 "confidence":0.56,"processing_time_ms":0.018,"hardware_used":"CPU","critical_path":true,"quality":"OK","version":3,
 "backend":"c","as_of":"2026-11-22T17:51:04.120000000Z","expires_at":"2026-11-22T17:51:06.120000000Z",
 "fallback":false}""")

ANALYSED = loads("""{"status":"completed","portfolio_id":"main","result":{"portfolio_id":"main",
  "timestamp":"2026-11-22T17:51:04.130000000Z",
  "metrics":{"total_value":999987.64304,"daily_change_pct":-0.001235696,"sharpe_ratio":null,"volatility_pct":null,
   "max_drawdown_pct":0.001235696,"processing_time_ms":0.012},
  "complexity":"standard","data_points_processed":2},
 "processing_time_ms":0.052,"complexity":"standard","real_time_path":true,"complexity_requested":"standard",
 "fallback":false,"periods_per_year":525600,
 "undefined":{"sharpe_ratio":"1 of 30 returns","volatility_pct":"1 of 30 returns"}}""")

EXPOSED = loads("""{"status":"completed","symbol":"AAPL","requested_factors":1,
 "results":[{"factor_id":"momentum","symbol":"AAPL","timestamp":"2026-11-22T17:51:00.000000000Z","value":0.84,
  "confidence":0.97,"data_age_seconds":4.1,"calculation_time_ms":0.006}],
 "count":1,"last_updated":"2026-11-22T17:51:00.000000000Z","universe":8}""")

STREAMED = loads("""[
 {"message_id":"c1-1","type":"system","topic":"connection","data":{"status":"connected","connection_id":"c1",
  "timestamp":"2026-11-22T17:51:04.100000000Z"},"timestamp":"2026-11-22T17:51:04.100000000Z"},
 {"message_id":"c1-2","type":"subscription","topic":"marketdata.quote:BTCUSDT","data":{"status":"subscribed",
  "topic":"marketdata.quote:BTCUSDT"},"timestamp":"2026-11-22T17:51:04.101000000Z","epoch":"k7q2","seq":17},
 {"message_id":"c1-3","type":"market_data","topic":"marketdata.quote:BTCUSDT","data":{"symbol":"BTCUSDT",
  "bid":"61659.7","bid_size":"2.311","ask":"61659.8","ask_size":"0.874"},
  "timestamp":"2026-11-22T17:51:04.120000000Z","epoch":"k7q2","seq":18},
 {"message_id":"c1-4","type":"system","topic":"marketdata.quote:BTCUSDT","data":{"event":"gap","missed":12,
  "reason":"slow_client"},"timestamp":"2026-11-22T17:51:05.000000000Z","epoch":"k7q2","seq":30}]""")
SHOWN = loads("""{"message_type":"market_data","symbol":"BTCUSDT","data":{"symbol":"BTCUSDT","price":61659.75,
 "bid":61659.7,"ask":61659.8,"volume":0.5,"timestamp":"2026-11-22T17:51:04.120000000Z"},
 "timestamp":"2026-11-22T17:51:04.120000000Z","epoch":"k7q2","seq":18}""")


class MarketData(Pair):
    names = ["marketdata"]

    def test_the_example(self):
        quote = {"bid": 61659.7, "bid_size": 2.311, "ask": "61659.8", "ask_size": "0.874"}
        now = time.time_ns() - 10**9
        stored = int(self.ingest({"symbol": "BTCUSDT", "data_type": "quote", "source": "internal", "timestamp": now,
                                  "data": quote}).nums["total_stored"])
        got = self.post("marketdata", "/data/ingest", {"data": [
            {"symbol": "BTCUSDT", "data_type": "quote", "source": "internal", "timestamp": stamp(now + 10**6),
             "latency_ms": 1.2, "data": quote},
            {"symbol": "BTCUSDT", "data_type": "trade", "source": "internal", "timestamp": stamp(now + 2 * 10**6)[:-7],
             "data": {"price": -1, "size": 0.5}}]})
        self.assertEqual(got.status, 200, got)
        same(self, dict(INGESTED, total_stored=Num(stored + 1)), got.nums, dict(KINDS, detail=a_text))

    def test_every_kind(self):
        now, common = time.time_ns() - 10**9, {"symbol": "KINDS", "source": "mock"}
        kinds = [("tick", {"price": 10, "size": "1.5"}),
                 ("trade", {"price": "10.1", "size": 2, "side": "BUY", "trade_id": "t1"}),
                 ("quote", {"bid": 10, "bid_size": 1, "ask": 10.5, "ask_size": 1}),
                 ("bar", {"spec": "1m", "open": 10, "high": 11, "low": 9, "close": 10.5, "volume": 100}),
                 ("level2", {"snapshot": True, "last_seq": 7, "bids": [["10", "1"], [9, 2]], "asks": [[10.5, 3]]})]
        for i, (kind, data) in enumerate(kinds):
            got = self.ingest(dict(common, data_type=kind, timestamp=now + i, data=data))
            self.assertEqual(got.nums["count"], Num(1))
        book = self.get("marketdata", "/orderbook/KINDS?depth=5").nums
        self.assertEqual([list(map(Decimal, level)) for level in book["bids"]], [[10, 1], [9, 2]])
        self.assertEqual([list(map(Decimal, level)) for level in book["asks"]], [[Decimal("10.5"), 3]])

    def test_nothing_taken_is_422(self):
        now = time.time_ns() - 10**9
        good = {"symbol": "NONE", "data_type": "trade", "source": "internal", "timestamp": now,
                "data": {"price": 1, "size": 1}}
        bad = {"symbol": dict(good, symbol=None), "timestamp": {k: v for k, v in good.items() if k != "timestamp"},
               "price": dict(good, data={"price": 0, "size": 1}), "data_type": dict(good, data_type="gossip")}
        for field, item in bad.items():
            got = problem(self, self.post("marketdata", "/data/ingest", {"data": [item]}), 422)
            self.assertEqual([(r["index"], r["field"]) for r in got.json["rejected"]], [(0, field)], got)
        ahead = self.post("marketdata", "/data/ingest", {"data": [dict(good, timestamp=time.time_ns() + 3600 * 10**9)]})
        self.assertEqual(problem(self, ahead, 422).json["rejected"][0]["field"], "timestamp", ahead)
        self.assertEqual(self.get("marketdata", "/data/NONE").status, 404)

    def test_stamps_come_in_three_forms_and_leave_in_one(self):
        second = (time.time_ns() // 10**9 - 10) * 10**9
        forms = [second, stamp(second + 120000001), stamp(second + 200000002)[:-1], str(second + 300000003),
                 time.strftime("%Y-%m-%dT%H:%M:%S+02:00", time.gmtime(second // 10**9 + 7200 + 1))]
        for form in forms:
            self.ingest({"symbol": "STAMPS", "data_type": "trade", "source": "internal", "timestamp": form,
                         "data": {"price": 1, "size": 1}})
        rows = self.both("marketdata", "GET", "/data/STAMPS?data_type=trade").json["data"]
        self.assertEqual(sorted(r["timestamp"] for r in rows),
                         [stamp(second), stamp(second + 120000001), stamp(second + 200000002),
                          stamp(second + 300000003),
                          stamp(second + 10**9)])
        for bad in ("yesterday", "2026-13-01T00:00:00Z", 1.5, True, ""):
            got = self.post("marketdata", "/data/ingest", {"data": [
                {"symbol": "STAMPS", "data_type": "trade", "timestamp": bad, "data": {"price": 1, "size": 1}}]})
            self.assertEqual(problem(self, got, 422).json["rejected"][0]["field"], "timestamp", got)

    def test_members_nobody_knows(self):
        item = {"symbol": "EXTRA", "data_type": "trade", "source": "internal", "timestamp": time.time_ns() - 10**9,
                "data": {"price": 1, "size": 1, "colour": "red"}}
        got = self.ingest(item)
        self.assertTrue(any("colour" in name for name in got.json["ignored"]), got)
        self.assertEqual(self.post("marketdata", "/data/ingest", {"data": [dict(item, unheard=1)]}).status, 422)
        problem(self, self.post("marketdata", "/data/ingest", {"data": [item], "unheard": 1}), 400, "unknown_field",
                "unheard")

    def test_a_number_must_be_exact(self):
        for price, ok in ((61659.123456789, True), ("61659.123456789", True), ("61659.1234567891", False)):
            got = self.post("marketdata", "/data/ingest", {"data": [
                {"symbol": "EXACT", "data_type": "trade", "source": "internal", "timestamp": time.time_ns() - 10**9,
                 "data": {"price": price, "size": 1}}]})
            self.assertEqual(got.status, 200 if ok else 422, got)
            if not ok:
                self.assertEqual(got.json["rejected"][0]["code"], "inexact", got)


class Features(Pair):
    names = ["features"]

    def test_the_example(self):
        got = self.post("features", "/features/calculate/BTCUSDT", CALCULATE)
        self.assertEqual(got.status, 200, got)
        kinds = dict(KINDS, value=a_number)
        same(self, CALCULATED, got.nums, kinds)
        pv = sum(Fraction(str(p)) * Fraction(str(v)) for p, v in zip(CALCULATE["prices"], CALCULATE["volumes"]))
        vwap = float(pv / sum(Fraction(str(v)) for v in CALCULATE["volumes"]))
        self.assertAlmostEqual(vwap, 61653.0963, 4)
        self.assertAlmostEqual(got.json["feature_set"]["features"]["vwap"]["value"], vwap, 7)
        self.assertEqual(got.json["ignored"], ["current_price"])

    def test_a_symbol_without_live_state_is_404(self):
        problem(self, self.post("features", "/features/calculate/NOBODY", {}), 404)

    def test_symbols_are_upper_cased(self):
        self.assertEqual(self.post("features", "/features/calculate/btcUsdt", CALCULATE).json["symbol"], "BTCUSDT")
        for bad in ("-BTC", "BTC%20USDT", "B" * 33):
            self.assertEqual(self.post("features", f"/features/calculate/{bad}", CALCULATE).status, 400, bad)

    def test_what_is_not_ready_is_absent(self):
        prices = [100 + (i * 7 % 13) for i in range(30)]
        got = self.post("features", "/features/calculate/X", {"prices": prices}).json
        self.assertEqual(got["feature_set"]["total_features"], len(got["feature_set"]["features"]))
        self.assertAlmostEqual(got["feature_set"]["features"]["sma_20"]["value"], sum(prices[-20:]) / 20, 9)
        self.assertEqual(set(got["feature_set"]["features"]) & set(got["not_ready"]), set())
        for missing in got["not_ready"].values():
            self.assertLess(missing["have"], missing["need"])


class Orders(Pair):
    """risk, strategy and portfolio on the examples' own situation: BTCUSDT is 61659.7 x 2.311, 61659.8 x 0.874."""
    args = {"risk": ("--default-limits", "false")}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for c in cls.modes:
            for e, path, body in (
                    ("risk", "/risk/limits", {"limit_id": "pos_btc", "limit_type": "position_size", "limit_value": 2,
                                              "enabled": True, "symbol": "BTCUSDT", "portfolio_id": "main"}),
                    ("risk", "/risk/limits", {"limit_id": "pos_eth", "limit_type": "position_size",
                                              "limit_value": "1000", "symbol": "ethusdt"}),
                    ("portfolio", "/portfolios", {"portfolio_id": "desk", "portfolio_name": "desk",
                                                  "initial_value": 1000000})):
                got = c[e].post(path, body)
                assert got.status in (200, 201), got
            # The first order opens connections and files; it is for a symbol without a price, so nothing comes of it.
            c["strategy"].post("/orders", dict(ORDER, client_order_id="warm", symbol="NOPRICE"))

    def test_check_order_and_what_follows(self):
        self.quote("BTCUSDT", 61659.7, 2.311, "61659.8", "0.874")
        with self.subTest("the check before the order"):
            got = self.post("risk", "/risk/critical-check/main", PRE_TRADE)
            self.assertEqual(got.status, 200, got)
            same(self, CHECKED, got.nums)
            same(self, [CHECK], got.nums["decision"]["checks"])
            a_text(self, got.nums["undefined"]["var_95"], "undefined.var_95")
            again = self.post("risk", "/risk/critical-check/main", PRE_TRADE)
            same(self, [CHECK], again.nums["decision"]["checks"])
        with self.subTest("in lower case, by number, without a reservation"):
            lower = {"order": dict(PRE_TRADE["order"], client_order_id="desk-0", symbol="btcusdt", quantity=0.25,
                                   price=61660.5)}
            got = self.post("risk", "/risk/critical-check/main", lower)
            # 0.5 is reserved by the order above.
            same(self, [dict(CHECK, value="0.75", headroom="1.25")], got.nums["decision"]["checks"])
            self.assertIs(got.json["decision"]["reserved"], False)
        with self.subTest("the order"):
            got = self.post("strategy", "/strategies/manual/execute", ORDER)
            self.assertEqual(got.status, 200, got)
            # What took longer than its deadline was asked for again, and is a replay then.
            same(self, dict(EXECUTED, replayed=got.again and got.json["replayed"]), got.nums, ORDER_KINDS)
            self.assertEqual(got.json["performance"]["meets_sla"], got.json["performance"]["latency_ms"] < 50)
            order = got.nums["order"]
            alone = self.get("strategy", f"/orders/{ORDER['client_order_id']}").nums
            why = alone.pop("decision")  # beside the published fields: what risk said of it, and its trace
            self.assertEqual(alone, order)
            self.assertEqual(why["risk"]["decision"]["client_order_id"], ORDER["client_order_id"])
            self.assertRegex(why["trace_id"], "^[0-9a-f]{32}$")
        with self.subTest("the same again"):
            again = self.post("strategy", "/strategies/manual/execute", ORDER)
            same(self, dict(EXECUTED, replayed=True), again.nums, ORDER_KINDS)
            self.assertEqual(again.nums["order"], order)
            by_number = self.post("strategy", "/strategies/manual/execute", dict(ORDER, quantity=0.5, price=61660.0))
            self.assertEqual((by_number.status, by_number.json.get("replayed")), (200, True), by_number)
        for change in ({"quantity": "0.6"}, {"price": "61661"}, {"side": "SELL"}, {"time_in_force": "GTC"}):
            with self.subTest("another body for its id", change=change):
                problem(self, self.post("strategy", "/strategies/manual/execute", dict(ORDER, **change)), 409)
        self.filled("main", 1)
        with self.subTest("what would be too much"):
            big = dict(PRE_TRADE["order"], client_order_id="desk-2", quantity="2")
            got = self.post("risk", "/risk/critical-check/main", {"order": big})
            self.assertEqual((got.status, got.json["decision"]["approved"]), (200, False), got)
            self.assertEqual(got.json["decision"].get("reserved", False), False)
            same(self, [DENIAL], got.nums["decision"]["denials"])
            denied = problem(self, self.post("strategy", "/orders", dict(ORDER, client_order_id="desk-2",
                                                                         quantity=2)), 422, "risk_denied")
            same(self, [DENIAL], loads(denied.body)["denials"])
            self.assertEqual(self.get("strategy", "/orders/desk-2").json["state"], "DENIED")
        with self.subTest("what the portfolio is now"):
            got = self.post("risk", "/risk/critical-check/main", {})
            self.assertEqual(got.status, 200, got)
            self.assertIsNot(got.json.get("decision", {}).get("approved"), True)
            result = got.nums["risk_result"]
            self.assertEqual(Decimal(result["total_exposure"]), Decimal("30829.875"))
            self.assertEqual(Decimal(result["portfolio_value"]), Decimal("999987.64304"))
            self.assertEqual(result["position_count"], Num(1))
            self.assertAlmostEqual(float(result["leverage"]), 30829.875 / 999987.64304, 9)
            self.assertIsNone(result["var_95"])
            whole = self.get("portfolio", "/portfolios/main").nums
            same(self, APPLIED["account"], whole["account"])
            # The first version's names keep their type: numbers, digit by digit.
            same(self, loads('{"initial_value":1000000,"cash_balance":969157.76804,"total_value":999987.64304}'), whole)
            same(self, [APPLIED["position"]], whole["positions"])
            rows = self.get("portfolio", "/portfolios/main/positions").nums["positions"]
            same(self, [APPLIED["position"]], rows)
        with self.subTest("a loss has its sign"):
            self.quote("BTCUSDT", 61659.7, 2.311, "61659.8", "0.875")
            got = self.post("strategy", "/orders", dict(ORDER, client_order_id="desk-3", side="SELL", quantity=0.1,
                                                        price="61659"))
            self.assertEqual((got.status, got.json["status"]), (200, "executed"), got)
            self.assertEqual(Decimal(got.nums["pnl"]), Decimal("-0.01"))
            self.assertIsInstance(got.nums["pnl"], Num)
            self.assertEqual(got.json["order"]["realized_pnl"], "-0.01")
            self.assertEqual(got.json["order"]["fee"], {"amount": "2.466388", "currency": "USDT"})
            same(self, loads('{"symbol":"BTCUSDT","quantity":0.1,"side":"SELL","price":61659.7}'),
                 got.nums["trade_details"])
        self.filled("main", 2)
        with self.subTest("the bus says the same"):
            self.records()

    def records(self):
        """Rule 9: records are the bodies' objects with portfolio_id, whatever lane the mode puts them in."""
        for c in self.modes:
            seen = {}
            for engine in ("strategy", "portfolio", "marketdata"):
                for lane in ("", ":critical", ":priority"):
                    for topic, record in stream(c.redis.port, f"nautilus-{engine}-hybrid-streams{lane}"):
                        seen.setdefault(topic, []).append(record)
            order = [r for r in seen["strategy.critical.order"] if r["client_order_id"] == ORDER["client_order_id"]][-1]
            want = {k: v for k, v in EXECUTED["order"].items() if k != "fills"}
            same(self, want, order)
            self.assertNotIn("fills", order)
            fill = seen["strategy.critical.fill"][0]
            same(self, dict(loads(json.dumps(FILL)), fill_no=Num(1), portfolio_id="main"), fill, ORDER_KINDS)
            self.assertEqual([f["fill_no"] for f in seen["strategy.critical.fill"]], [Num(1), Num(2)])
            mine = [p for p in seen["portfolio.priority.position"] if p["portfolio_id"] == "main"]
            same(self, APPLIED["position"], mine[0])
            mine = [p for p in seen["portfolio.priority.account"] if p["portfolio_id"] == "main" and Decimal(p["fees"])]
            same(self, APPLIED["account"], mine[0])
            same(self,
                 loads('{"symbol":"BTCUSDT","bid":"61659.7","bid_size":"2.311","ask":"61659.8","ask_size":"0.874"}'),
                 next(q for q in seen["marketdata.quote"] if q["symbol"] == "BTCUSDT"))

    def test_a_fill_of_somebody_else(self):
        self.quote("BTCUSDT", 61659.7, 2.311, "61659.8", "0.874")
        got = self.post("portfolio", "/portfolios/desk/fills", FILL)
        self.assertEqual(got.status, 200, got)
        same(self, APPLIED, got.nums)
        with self.subTest("again"):
            for again in (FILL, dict(FILL, quantity=0.5, price=61659.8, fee={"amount": 12.33196, "currency": "USDT"})):
                got = self.post("portfolio", "/portfolios/desk/fills", again)
                self.assertEqual((got.status, got.json["status"]), (200, "duplicate"), got)
                same(self, dict(APPLIED, status="duplicate"), got.nums)
        for change in ({"quantity": "0.4"}, {"price": "61659.9"}, {"side": "SELL"}, {"symbol": "ETHUSDT"},
                       {"fee": {"amount": "12.33197", "currency": "USDT"}}):
            with self.subTest("other content", change=change):
                problem(self, self.post("portfolio", "/portfolios/desk/fills", dict(FILL, **change)), 409)
        with self.subTest("the identity has no default"):
            for name in ("trade_id", "venue", "symbol", "side", "quantity", "price", "fee", "ts_event"):
                body = {k: v for k, v in FILL.items() if k != name}
                problem(self, self.post("portfolio", "/portfolios/desk/fills", body), 400, "missing", name)
        with self.subTest("no mark"):
            got = self.post("portfolio", "/portfolios/desk/fills",
                            dict(FILL, trade_id="OTHER-1", symbol="nomark", price=2, quantity="1",
                                 fee={"amount": 0, "currency": "USDT"}))
            self.assertEqual(got.status, 200, got)
            self.assertEqual(got.json["position"]["symbol"], "NOMARK")
            for where, name in (("position", "mark"), ("position", "market_value"), ("position", "unrealized_pnl"),
                                ("account", "equity"), ("account", "unrealized_pnl"), ("account", "equity_change")):
                self.assertIn(name, got.json[where])
                self.assertIsNone(got.json[where][name], f"{where}.{name}")
            for name in ("mark", "market_value", "equity"):
                self.assertTrue(any(name in key for key in got.json["undefined"]),
                                f"{name} is null and not in undefined")
            self.assertEqual(got.json["account"]["cash"], "969155.76804")
            self.assertEqual(got.json["ledger"]["sum"], "0")

    def test_arithmetic_on_what_the_caller_says(self):
        body = {"portfolio_value": 100000, "positions": [{"symbol": "BTCUSDT", "market_value": 30829.9,
                                                          "colour": "red"},
                                                         {"symbol": "ETHUSDT", "market_value": "-12000"}]}
        got = self.post("risk", "/risk/critical-check/nobody", body)
        self.assertEqual(got.status, 200, got)
        result = got.nums["risk_result"]
        same(self, loads("""{"portfolio_id":"nobody","total_exposure":42829.9,"portfolio_value":100000,
          "leverage":0.428299,"var_95":null,"position_count":2,"check_timestamp":1.5,"processing_time_ms":0.1,
          "critical_path":true}"""), result)
        self.assertAlmostEqual(float(result["concentration_ratio"]), 30829.9 / 42829.9, 9)
        a_text(self, got.nums["undefined"]["var_95"], "undefined.var_95")
        self.assertEqual(got.json["decision"]["basis"], "supplied")
        self.assertIsNot(got.json["decision"].get("approved"), True)
        self.assertTrue(any("colour" in name for name in got.json["ignored"]), got)
        problem(self, self.post("risk", "/risk/critical-check/nobody", dict(body, unheard=1)), 400, "unknown_field",
                "unheard")

    def test_losses_are_negative_here(self):
        """By hand: type 7 quantiles of 100 different returns lie 4.95 and 0.99 from the lowest; tails of 5 and of 1."""
        returns = [((i * 37) % 100 - 50) / 1000 for i in range(100)]
        body = {"positions": [{"symbol": "BTCUSDT", "market_value": 1000}], "returns": returns}
        got = self.post("risk", "/risk/portfolio-var/desk", body).json["var_result"]
        for name, want in (("var_95", -45.05), ("var_99", -49.01), ("expected_shortfall_95", -48),
                           ("expected_shortfall_99", -50)):
            self.assertAlmostEqual(got[name], want, 9, name)
        few = self.post("risk", "/risk/portfolio-var/desk", dict(body, returns=returns[:10])).json
        for name in ("var_95", "var_99", "expected_shortfall_95", "expected_shortfall_99"):
            self.assertIsNone(few["var_result"][name])
            self.assertIsInstance(few["undefined"][name], str)

    def test_a_simulation_repeats_itself(self):
        """Both modes give the same figures, and so does another implementation of the same generators."""
        values, covariance = [600, -250], [4e-4, 1e-4, 1e-4, 9e-4]
        body = {"positions": [{"symbol": s, "market_value": v} for s, v in zip(("BTCUSDT", "ETHUSDT"), values)],
                "covariance": covariance, "method": "monte_carlo", "num_simulations": 1000, "seed": 12345}
        got = self.post("risk", "/risk/portfolio-var/desk", body).json
        result = got["var_result"]
        self.assertEqual((result["method"], result["distribution"], result["seed"], result["num_simulations"],
                          result["returns"], result["portfolio_value"]), ("monte_carlo", "normal", 12345, 1000, 0, 350))
        self.assertEqual(got["undefined"], {})
        profits = simulated_pair(values, covariance, 1000, 12345)
        for name, share in (("95", 0.05), ("99", 0.01)):
            at = 999 * share
            low = int(at)
            quantile = profits[low] + (at - low) * (profits[low + 1] - profits[low])
            self.assertAlmostEqual(result["var_" + name], quantile, 9)
            tail = [p for p in profits if p <= quantile]
            self.assertAlmostEqual(result["expected_shortfall_" + name], sum(tail) / len(tail), 9)
            self.assertGreater(result["standard_error"]["var_" + name], 0)
        same = self.post("risk", "/risk/portfolio-var/desk", body).json["var_result"]
        self.assertEqual(same, result)
        problem(self, self.post("risk", "/risk/portfolio-var/desk", dict(body, covariance=[1, 2, 2, 1])), 400,
                "not_semidefinite", "covariance")

    def test_lists(self):
        """Lists take limit and after and end with count and next, whatever they list."""
        for engine, path, name in (("strategy", "/strategies", "strategies"), ("strategy", "/orders", "orders"),
                                   ("strategy", "/fills", "fills"), ("strategy", "/executions", "executions"),
                                   ("risk", "/risk/limits", "limits"), ("risk", "/risk/breaches", "breaches"),
                                   ("portfolio", "/portfolios", "portfolios"),
                                   ("portfolio", "/portfolios/main/positions", "positions"),
                                   ("portfolio", "/portfolios/main/ledger", "entries"),
                                   ("marketdata", "/feeds", "feeds"), ("marketdata", "/symbols", "symbols"),
                                   ("marketdata", "/instruments", "instruments")):
            with self.subTest(path):
                got = [c[engine].get(f"{path}?limit=1") for c in self.modes]
                for g in got:
                    self.assertEqual(g.status, 200, g)
                    self.assertLessEqual(len(g.json[name]), 1)
                    self.assertEqual(g.json["count"], len(g.json[name]))
                    self.assertIn("next", g.json)
                for limit in (0, 1001, "x"):
                    self.assertEqual(self.modes[0][engine].get(f"{path}?limit={limit}").status, 400, limit)

    def test_a_loss_limit_is_a_magnitude(self):
        for limit_id, value in (("loss_a", -50000), ("loss_b", "50000")):
            got = self.post("risk", "/risk/limits", {"limit_id": limit_id, "limit_type": "daily_loss",
                                                     "limit_value": value,
                                                     "enabled": True, "portfolio_id": "elsewhere"})
            self.assertIn(got.status, (200, 201), got)
        rows = {r["limit_id"]: r for r in self.get("risk", "/risk/limits?limit=1000").nums["limits"]}
        self.assertEqual(rows["loss_a"]["limit_value"], rows["loss_b"]["limit_value"])

    def test_every_way_an_order_can_go(self):
        self.quote("ETHUSDT", "100", "5", "100.5", "3")

        def order(oid, **more):
            body = {"client_order_id": oid, "symbol": "ETHUSDT", "side": "BUY", "quantity": "1", "price": "101"}
            body.update(more)
            return {k: v for k, v in body.items() if v is not None}

        for oid, more, status, state, filled in (
                ("way-rest", {"price": "99", "time_in_force": "GTC"}, "accepted", "ACCEPTED", "0"),
                ("way-none", {"price": "99"}, "canceled", "CANCELED", "0"),
                ("way-fok", {"quantity": "4", "time_in_force": "FOK"}, "canceled", "CANCELED", "0"),
                ("way-market", {"price": None, "order_type": "MARKET"}, "executed", "FILLED", "1"),
                ("way-part", {"quantity": "4"}, "partially_executed", "CANCELED", "2")):
            with self.subTest(oid):
                got = self.post("strategy", "/orders", order(oid, **more))
                self.assertEqual((got.status, got.json["status"]), (200, status), got)
                self.assertEqual(got.json["order"]["state"], state)
                self.assertEqual(got.json["order"]["filled_quantity"], filled)
                asked = order(oid, **more)
                traded = Num(filled) if filled != "0" else Num(asked["quantity"])
                same(self, traded, got.nums["trade_details"]["quantity"])
                if filled != "0":
                    same(self, Num("100.5"), got.nums["trade_details"]["price"])
        with self.subTest("a limit order needs its price"):
            problem(self, self.post("strategy", "/orders", order("way-5", price=None)), 400, None, "price")
        with self.subTest("the key of the header is the id"):
            body = order("x", price="99")
            del body["client_order_id"]
            got = self.post("strategy", "/orders", body, {"Idempotency-Key": "way-key"})
            self.assertEqual((got.status, got.json["execution_id"]), (200, "way-key"), got)
            again = self.post("strategy", "/orders", body, {"Idempotency-Key": "way-key"})
            self.assertTrue(again.json["replayed"])
        with self.subTest("paper chooses an id when there is none"):
            for c in self.modes:
                got = c["strategy"].post("/orders", body)
                self.assertEqual(got.status, 200, got)
                self.assertTrue(got.json["order"]["client_order_id"])
        with self.subTest("nothing is executed for who is not there or not deployed"):
            problem(self, self.post("strategy", "/strategies/nobody/execute", order("way-6")), 404)
            made = self.post("strategy", "/strategies", {"strategy_id": "draft", "strategy_name": "draft"})
            self.assertIn(made.status, (200, 201), made)
            problem(self, self.post("strategy", "/strategies/draft/execute", order("way-7")), 409)
        with self.subTest("lower case"):
            got = self.post("strategy", "/orders", order("way-8", symbol="ethusdt", price="99"))
            self.assertEqual((got.status, got.json["order"]["symbol"]), (200, "ETHUSDT"), got)
        with self.subTest("unknown and inexact"):
            problem(self, self.post("strategy", "/orders", order("way-9", unheard=1)), 400, "unknown_field", "unheard")
            got = problem(self, self.post("strategy", "/orders", order("way-9", quantity="0.1234567891")), 400,
                          "inexact", "quantity")
            self.assertIn("string", got.json["detail"])


MINUTE = 60 * 10**9


def bars(symbol, close, end):
    """Items of the minutes up to end that opened and closed at these prices: one less than there are prices."""
    rows = []
    for t, (first, last) in enumerate(zip(close, close[1:])):
        high, low = max(first, last, key=float), min(first, last, key=float)
        rows.append({"symbol": symbol, "data_type": "bar", "source": "internal",
                     "timestamp": end - (len(close) - 2 - t) * MINUTE,
                     "data": {"spec": "1m", "open": first, "high": high, "low": low, "close": last,
                              "volume": str(5 + t % 3)}})
    return rows


class Models(Pair):
    """A model trained on the same bars in both modes, so that it is the same model."""
    names = ["marketdata", "features", "ml"]
    args = {"ml": ("--train-after-vectors", "0")}
    COUNT = 400
    # How the figures of a vector become inputs: prices as distances from the close, differences as shares of it.
    LEVELS = ("sma_10", "sma_20", "sma_50", "ema_12", "ema_26", "bb_upper", "bb_middle", "bb_lower", "vwap",
              "microprice")
    SPANS = ("macd", "macd_signal", "macd_histogram", "atr_14", "momentum_10")

    def test_the_example(self):
        close = [f"{61659 + 40 * math.sin(t / 5) + 25 * math.sin(t * t) + t / 10:.2f}" for t in range(self.COUNT + 1)]
        end = time.time_ns() // MINUTE * MINUTE
        self.ingest(*bars("BTCUSDT", close, end))
        for c in self.modes:
            wait_for(lambda: handled(c["ml"], "vector") == self.COUNT)
            self.train(c["ml"])
        weights, ask = self.weights(), {"symbol": "btcusdt", "current_price": 61659.75, "max_age_ms": 86400000}
        got = self.post("ml", "/ml/critical-predict/price_model", ask)
        self.assertEqual(got.status, 200, got)
        same(self, dict(PREDICTED, version=Num(2), as_of=stamp(end), expires_at=stamp(end + 86400 * 10**9)), got.nums,
             {"prediction_id": a_text, "quality": a_text, "confidence": a_number, "change_percent": a_number,
              "target_price": a_number, "direction": a_text, "processing_time_ms": a_time_span})
        self.assertRegex(got.json["prediction_id"], r"^P-[0-9a-f]{8}-[1-9][0-9]*$")
        self.assertIn(got.json["quality"], ("OK", "BELOW_BASELINE"))
        up = self.probability(weights, float(close[-1]))
        change = (2 * up - 1) * weights["mean_move"]
        self.assertEqual(got.json["prediction"]["direction"], "UP" if up > 0.5 else "DOWN")
        self.assertAlmostEqual(got.json["confidence"], max(up, 1 - up), 9)
        self.assertEqual(got.nums["prediction"]["confidence"], got.nums["confidence"])
        self.assertAlmostEqual(got.json["prediction"]["change_percent"], change, 12)
        self.assertAlmostEqual(got.json["prediction"]["target_price"], 61659.75 * (1 + change), 6)
        with self.subTest("another path, the first version's name"):
            other = self.post("ml", "/ml/predict/price_model_v2_hybrid", ask)
            same(self, dict(got.nums, critical_path=False, prediction=dict(got.nums["prediction"], critical_path=False)),
                 other.nums, dict(KINDS, prediction_id=a_text))
        with self.subTest("figures instead of a symbol"):
            given = self.post("ml", "/ml/critical-predict/price_model",
                              {"features": dict(self.vector(), colour=1), "current_price": close[-1]})
            self.assertAlmostEqual(given.json["confidence"], got.json["confidence"], 9)
            self.assertEqual(given.json["ignored"], ["colour"])
        with self.subTest("batches"):
            self.batches(ask, dict(got.nums, prediction=dict(got.nums["prediction"], critical_path=False)), close[-1])
        for c in self.modes:  # the detail says how old it is
            stale = c["ml"].post("/ml/critical-predict/price_model", dict(ask, max_age_ms=1))
            problem(self, stale, 422, "stale_input", "symbol")
        for code, field, body in (("missing", "symbol", {"symbol": "NOBODY"}), ("missing", "symbol", {}),
                                  ("missing", "features", {"features": {"rsi_14": 50}, "current_price": 1}),
                                  ("out_of_range", "features", {"features": {n: 1e9 for n in weights["inputs"]},
                                                                "current_price": 1})):
            with self.subTest("no prediction", code=code):
                problem(self, self.post("ml", "/ml/critical-predict/price_model", body), 422, code, field)
        problem(self, self.post("ml", "/ml/critical-predict/regime_detector", ask), 422, "model_disabled", "model_id")
        problem(self, self.post("ml", "/ml/critical-predict/oracle", ask), 404)

    def batches(self, ask, alone, price):
        """A thousand inputs, which a worker computes, are answered as a few, and the first of them as by itself."""
        inputs = [ask, {"symbol": "NOBODY"}, {"features": dict(self.vector(), colour=1), "current_price": price}, {},
                  {"features": {"rsi_14": 50}, "current_price": 1}]
        few, many = [self.post("ml", "/ml/batch-inference", {"model_id": "price_model", "inputs": inputs * n})
                     for n in (1, 200)]
        for got, n in (few, 1), (many, 200):
            self.assertEqual((got.status, list(got.json)),
                             (200, ["model_id", "batch_size", "results", "succeeded", "backend", "processing_time_ms",
                                    "ignored"]), got)
            self.assertEqual((got.json["batch_size"], len(got.json["results"]), got.json["succeeded"],
                              got.json["ignored"]), (5 * n, 5 * n, 2 * n, ["colour"]))
        for i, r in enumerate(many.nums["results"]):
            self.assertEqual(scrub(r), dict(scrub(few.nums["results"][i % 5]), index=Num(i)))
            self.assertEqual(list(r), list(few.nums["results"][i % 5]))
        first = few.nums["results"][0]
        for name in ("prediction", "confidence", "quality", "version", "as_of", "expires_at", "hardware_used"):
            self.assertEqual(first[name], alone[name], name)
        self.assertEqual([r.get("field") for r in few.json["results"]], [None, "symbol", None, "symbol", "features"])
        problem(self, self.post("ml", "/ml/batch-inference", {"model_id": "price_model", "inputs": inputs * 200 + [{}]}),
                400, "too_many", "inputs")

    def train(self, ml):
        """Two versions: the example's is not the first one, either."""
        for seed in (3, 4):
            got = ml.post("/models/price_model/train", {"horizon": 5, "seed": seed, "promote": True})
            self.assertEqual(got.status, 202, got)
            path = f"/jobs/{got.json['job_id']}"
            wait_for(lambda: ml.get(path).json["status"] not in ("queued", "running"))
            self.assertEqual(ml.get(path).json["status"], "done", ml.get(path))

    def weights(self):
        mine, plain = [next(v for v in c["ml"].get("/models/price_model").json["versions"] if v["serving"])
                       for c in self.modes]
        self.assertEqual((mine["weights"], mine["version"]), (plain["weights"], 2))
        return mine["weights"]

    def vector(self):
        return {n: f["value"] for n, f in
                self.get("features", "/features/BTCUSDT").json["feature_set"]["features"].items()}

    def probability(self, w, close):
        """Of a rise, from the features engine's own figures."""
        vector, odds = self.vector(), w["intercept"]
        for name, mean, sd, weight in zip(w["inputs"], w["mean"], w["sd"], w["weight"]):
            x = vector[name]
            x = x / close - 1 if name in self.LEVELS else x / close if name in self.SPANS else x
            odds += weight * (x - mean) / sd if sd > 0 else 0
        return 1 / (1 + math.exp(-odds))


class Analytics(Pair):
    names = ["portfolio", "marketdata", "analytics"]

    def test_the_example(self):
        self.quote("BTCUSDT", 61659.7, 2.311, "61659.8", "0.874")
        # A point is added at each full minute: begun anew when one passed meanwhile.
        for portfolio in ("first", "second", "third"):
            minute = time.time_ns() // MINUTE
            before = [handled(c["analytics"], "account") for c in self.modes]
            made = self.post("portfolio", "/portfolios", {"portfolio_id": portfolio, "portfolio_name": portfolio,
                                                          "initial_value": 1000000})
            self.assertIn(made.status, (200, 201), made)
            fill = self.post("portfolio", f"/portfolios/{portfolio}/fills", dict(FILL, trade_id=portfolio))
            self.assertEqual(fill.status, 200, fill)
            for c, n in zip(self.modes, before):
                wait_for(lambda: handled(c["analytics"], "account") >= n + 2)
            path = f"/analytics/realtime/{portfolio}"
            answers = [c["analytics"].post(path, {"complexity": "standard"}) for c in self.modes]
            answers += [c["analytics"].get(path + "?complexity=standard") for c in self.modes]
            answers += [c["analytics"].post(path, {}) for c in self.modes]
            if time.time_ns() // MINUTE == minute and not any(a.json.get("fallback") for a in answers):
                break
        kinds = dict(KINDS, daily_change_pct=a_number, max_drawdown_pct=a_number)
        for got in answers:
            self.assertEqual(got.status, 200, got)
            got.nums = loads(got.body)
            same(self, dict(ANALYSED, portfolio_id=portfolio, result=dict(ANALYSED["result"], portfolio_id=portfolio)),
                 got.nums, kinds)
            self.assertEqual(scrub(got.nums), scrub(answers[0].nums))
            metrics = got.json["result"]["metrics"]
            self.assertAlmostEqual(metrics["daily_change_pct"], -0.001235696, 12)
            self.assertAlmostEqual(metrics["max_drawdown_pct"], 0.001235696, 12)

    def test_what_is_not_a_level_or_a_portfolio(self):
        problem(self, self.post("analytics", "/analytics/realtime/main", {"complexity": "deep"}), 400, "bad_enum",
                "complexity")
        problem(self, self.post("analytics", "/analytics/realtime/main", {"depth": 1}), 400, "unknown_field", "depth")
        problem(self, self.post("analytics", "/analytics/realtime/nobody", {}), 404)


class Factors(Pair):
    names = ["marketdata", "factor"]
    args = {"factor": ("--lookback", "40", "--min-bars", "12")}
    SYMBOLS = ["AAPL", "AMZN", "GOOG", "IBM", "META", "MSFT", "NVDA", "TSLA"]
    RETURNS, REVERSAL = 38, 5

    def test_the_example(self):
        close = {s: [f"{100 + 10 * i + 3 * math.sin((i + 2) * t / 3) + (i - 3) * t / 9:.2f}"
                     for t in range(self.RETURNS + 2)] for i, s in enumerate(self.SYMBOLS)}
        end = time.time_ns() // MINUTE * MINUTE
        last = stamp(end)
        for symbol in self.SYMBOLS[:4]:
            self.ingest(*bars(symbol, close[symbol], end))
        self.known(self.SYMBOLS[:4])
        problem(self, self.post("factor", "/factors/calculate/AAPL", ["momentum"]), 422, "universe_too_small")
        for symbol in self.SYMBOLS[4:]:
            self.ingest(*bars(symbol, close[symbol], end))
        self.known(self.SYMBOLS)
        got = self.post("factor", "/factors/calculate/aapl", {"factor_ids": ["momentum"]})
        age = (time.time_ns() - end) / 1e9
        self.assertEqual(got.status, 200, got)
        row = dict(EXPOSED["results"][0], timestamp=last)
        same(self, dict(EXPOSED, results=[row], last_updated=last), got.nums,
             {"value": a_number, "confidence": a_number, "data_age_seconds": a_time_span,
              "calculation_time_ms": a_time_span})
        row = got.json["results"][0]
        momentum = [self.momentum([float(x) for x in close[s]]) for s in self.SYMBOLS]
        self.assertAlmostEqual(row["value"], standardised(momentum)[0], 9)
        self.assertAlmostEqual(row["confidence"], self.RETURNS / 40, 12)
        self.assertLessEqual(row["data_age_seconds"], age)
        with self.subTest("the first version's bare array, and all"):
            again = self.post("factor", "/factors/calculate/AAPL", ["momentum"])
            self.assertEqual(scrub(again.nums), scrub(got.nums))
            all_of_them = self.both("factor", "POST", "/factors/calculate/AAPL")
            self.assertEqual(all_of_them.status, 200, all_of_them)
            self.assertEqual(all_of_them.json["requested_factors"], 5)
            self.assertIn(scrub(got.nums["results"][0]), scrub(all_of_them.nums["results"]))
        problem(self, self.post("factor", "/factors/calculate/NOBODY", ["momentum"]), 404, "unknown_symbol", "symbol")
        problem(self, self.post("factor", "/factors/calculate/AAPL", ["alpha"]), 400, "unknown_factor", "factor_ids[0]")

    def momentum(self, close):
        """Mean log return a bar, without the newest bars, which are the reversal's."""
        return math.log(close[-1 - self.REVERSAL] / close[1]) / (self.RETURNS - self.REVERSAL)

    def known(self, symbols):
        count = len(symbols) * (self.RETURNS + 1)
        for c in self.modes:
            wait_for(lambda: handled(c["factor"], "bar") == count)


def standardised(x):
    """Winsorised at three robust deviations, then mean 0 and sample deviation 1."""
    median = statistics.median(x)
    sd = statistics.median([abs(v - median) for v in x]) / statistics.NormalDist().inv_cdf(0.75)
    x = [min(max(v, median - 3 * sd), median + 3 * sd) for v in x]
    return [(v - statistics.fmean(x)) / statistics.stdev(x) for v in x]


class Streams(Pair):
    """The frames of /ws/stream and /ws/market-data, in order, each with all the fields of the example."""
    names = ["marketdata", "websocket"]
    TOPIC = "marketdata.quote:BTCUSDT"
    KINDS = {"epoch": a_text, "timestamp": a_stamp}

    def frame(self, client):
        opcode, payload = client.recv_frame()
        self.assertEqual(opcode, wsclient.TEXT)
        return loads(payload)

    def exactly(self, want, got):
        """The very fields, and no other: a frame is not a body that may have more."""
        same(self, want, got, self.KINDS)
        self.assertEqual(set(got), set(want))
        self.assertEqual(set(got["data"]), set(want["data"]))

    def test_the_example(self):
        welcome, confirmed, data, gap = STREAMED
        quote = {"symbol": "BTCUSDT", "data_type": "quote", "source": "internal",
                 "data": {"bid": "61659.7", "bid_size": "2.311", "ask": "61659.8", "ask_size": "0.874"}}
        at = time.time_ns() - 10**9
        self.ingest(*[dict(quote, timestamp=at + i) for i in range(17)])
        for c in self.modes:
            wait_for(lambda: handled(c["websocket"], "quote") == 17)
        clients = [wsclient.Client(c["websocket"].port) for c in self.modes]
        for c in clients:
            self.addCleanup(c.close)
            self.exactly(welcome, first := self.frame(c))
            self.assertEqual(first["timestamp"], first["data"]["timestamp"])
            c.say({"type": "subscribe", "topics": [self.TOPIC, "strategy.critical.*"]})
            self.exactly(confirmed, got := self.frame(c))
            c.epoch = got["epoch"]
            any_of = {k: v for k, v in confirmed.items() if k != "seq"}
            self.exactly(dict(any_of, message_id="c1-3", topic="strategy.critical.*",
                              data=dict(confirmed["data"], topic="strategy.critical.*")), self.frame(c))
        self.ingest(dict(quote, timestamp=at + 10**6))
        for c in clients:
            self.exactly(dict(data, message_id="c1-4"), got := self.frame(c))
            self.assertEqual((got["epoch"], got["timestamp"]), (c.epoch, stamp(at + 10**6)))
        self.gap(gap, quote, at + 2 * 10**6)
        self.market(quote, at + 10 * 10**6)

    def gap(self, gap, quote, at):
        """A client that comes back for 17, of which all but the last 256 are not kept any more."""
        self.ingest(*[dict(quote, timestamp=at + i) for i in range(268)])
        for c, mode in zip((wsclient.Client(c["websocket"].port) for c in self.modes), self.modes):
            self.addCleanup(c.close)
            wait_for(lambda: handled(mode["websocket"], "quote") == 17 + 1 + 268)
            self.frame(c)
            c.say({"type": "subscribe", "topics": ["user.x:y"]})
            c.epoch = self.frame(c)["epoch"]
            c.say({"type": "subscribe", "topics": [self.TOPIC],
                   "resume": {self.TOPIC: {"epoch": c.epoch, "seq": 18}}})
            self.exactly(dict(STREAMED[1], message_id="c2-3", seq=Num(18)), self.frame(c))
            # 286 in all, of which 31 to 286 are kept: 12 are missed, up to the example's 30.
            self.exactly(dict(gap, message_id="c2-4", data=dict(gap["data"], reason="history")), self.frame(c))
            self.assertEqual(self.frame(c)["seq"], Num(31))

    def market(self, quote, at):
        clients = [wsclient.Client(c["websocket"].port, "/ws/market-data/btcusdt") for c in self.modes]
        for c in clients:
            self.addCleanup(c.close)
            before = self.frame(c)
            self.exactly(dict(SHOWN, seq=Num(286), undefined=None, data=dict(SHOWN["data"], price=None, volume=Num(0))),
                         dict(before, undefined=None))
            self.assertEqual(set(before["undefined"]), {"price"})
        self.ingest({"symbol": "BTCUSDT", "data_type": "trade", "source": "internal", "timestamp": at,
                     "data": {"price": "61659.75", "size": "0.5"}})
        for c in clients:
            self.exactly(dict(SHOWN, seq=Num(287)), got := self.frame(c))
            self.assertEqual((got["timestamp"], got["data"]["timestamp"]), (stamp(at), stamp(at)))


def stream(port, key):
    """[(topic, record)] of a bus stream."""
    out = subprocess.run(["redis-cli", "-p", str(port), "--raw", "XRANGE", key, "-", "+"],
                         capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    at = [i for i in range(len(out) - 3) if out[i] == "h" and out[i + 2] == "p"]
    return [(out[i + 1].split(" ")[3], loads(out[i + 3])) for i in at]


class EveryEngine(Pair):
    """What all nine serve, in both modes."""
    names = list(ENGINES)

    def test_health(self):
        for c, hybrid in zip(self.modes, (True, False)):
            for name in ENGINES:
                with self.subTest(name, hybrid=hybrid):
                    e = c[name]
                    # An engine that asked a peer before it was up asks again after its circuit's recovery.
                    wait_for(lambda e=e: e.get("/health").json["status"] == "healthy", 120, 0.2)
                    got = e.get("/health")
                    self.assertEqual(got.status, 200)
                    h = loads(got.body)
                    self.assertEqual(h["engine"], name)
                    self.assertRegex(h["version"], r"^\d+\.\d+\.\d+$")
                    a_time_span(self, h["uptime_seconds"], "uptime_seconds")
                    self.assertIs(h["hybrid_integration"], hybrid)
                    a_text(self, h["hybrid_reason"], "hybrid_reason")
                    self.assertIs(h["messagebus_connected"], True)
                    breaker = h["circuit_breaker"]
                    if hybrid:
                        self.assertEqual(set(breaker), {"state", "failure_count", "last_failure_time"})
                        self.assertIn(breaker["state"], ("closed", "half_open", "open"))
                        a_time_span(self, breaker["failure_count"], "failure_count")
                        if breaker["last_failure_time"] is not None:
                            a_stamp(self, breaker["last_failure_time"], "last_failure_time")
                    else:
                        self.assertEqual(breaker,
                                         loads('{"state":"disabled","failure_count":0,"last_failure_time":null}'))
                    for view in [h["performance"]["overall"], *h["performance"]["operations"].values()]:
                        a_number(self, view["count"], "count")
                        a_number(self, view["errors"], "errors")
                    self.assertIn("redis", h["dependencies"])
                    for d in h["dependencies"].values():
                        self.assertEqual(d["status"], "healthy", d)
                        self.assertIn("detail", d)
                        a_stamp(self, d["since"], "since")

    def test_performance(self):
        for name in ENGINES:
            with self.subTest(name):
                e = self.modes[0][name]
                e.get("/metrics")
                got = loads(e.get("/hybrid/performance").body)
                self.assertEqual(got["engine"], name)
                self.assertIn("metrics", got["operations"])
                for op, row in got["operations"].items():
                    for field in ("count", "errors", "rejected", "shed", "timeouts", "in_flight", "over_target"):
                        a_number(self, row[field], f"{op}.{field}")
                    self.assertIn("target_us", row)
                    self.assertIn("within_target", row)
                    for view in ("all", "last_10s", "last_60s"):
                        for q in ("count", "p50_us", "p90_us", "p95_us", "p99_us", "p999_us", "max_us", "mean_us"):
                            a_time_span(self, row[view][q], f"{op}.{view}.{q}")
                        self.assertLessEqual(Decimal(row[view]["p50_us"]), Decimal(row[view]["p99_us"]))
                self.assertGreaterEqual(int(got["operations"]["metrics"]["count"]), 1)
                self.assertGreater(Decimal(got["operations"]["metrics"]["all"]["p50_us"]), 0)
                for field in ("loop_lag_us", "queue_delay_us", "queued_jobs"):
                    a_time_span(self, got["load"][field], field)
                a_number(self, got["overall"]["count"], "overall.count")
                self.assertIsInstance(got["bus"], dict)
                self.assertIsInstance(got["fallbacks"], dict)
                self.assertIsInstance(got["performance_summary"], dict)
                same(self, loads('{"name":"x","state":"closed","metrics":{},"config":{}}'),
                     got["circuit_breaker_status"],
                     {"name": a_text, "state": a_text})
                a_number(self, got["active_operations"], "active_operations")
                a_number(self, got["total_metrics"], "total_metrics")
                plain = problem(self, self.modes[1][name].get("/hybrid/performance"), 404, ran=False)
                self.assertIn("ENABLE_HYBRID", plain.json["detail"])

    def test_the_bus_in_performance(self):
        got = self.modes[0]["strategy"].get("/hybrid/performance").json["bus"]
        text = json.dumps(got)
        for lane in ("critical", "priority", "normal"):
            self.assertIn(f'"{lane}"', text)
        for what in ("lag", "pending", "oldest", "drop", "gap"):
            self.assertIn(what, text)


if __name__ == "__main__":
    unittest.main(verbosity=2)
