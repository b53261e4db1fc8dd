"""Exposures of a simulated market, end to end: from marketdata's bars over the bus to the published record and the
answers, each against the formulas evaluated here on the bars that marketdata serves. Once with hybrid and once with
plain engines."""
import json
import math
import os
import re
import statistics
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from keeltest import Chain, wait_for  # noqa: E402

LOOKBACK, REVERSAL = 20, 5
FACTORS = ["momentum", "reversal", "volatility", "liquidity", "size"]
OPTIONS = {"factor": ("--bar-spec", "1s", "--lookback", str(LOOKBACK), "--min-bars", "12", "--stale-bars", "30")}


def raw(bars):
    """Newest bar first."""
    close = [float(b["close"]) for b in bars]
    traded = [c * float(b["volume"]) for c, b in zip(close, bars)]
    n = min(len(close) - 1, LOOKBACK)
    r = [math.log(close[i] / close[i + 1]) for i in range(n)]
    return [math.log(close[REVERSAL] / close[n]) / (n - REVERSAL), -math.log(close[0] / close[REVERSAL]),
            statistics.stdev(r), -math.log(statistics.fmean(abs(x) / v for x, v in zip(r, traded))),
            math.log(statistics.fmean(traded[:n]))]


def standardise(column):
    median = statistics.median(column)
    sd = statistics.median([abs(x - median) for x in column]) / statistics.NormalDist().inv_cdf(0.75)
    x = [min(max(v, median - 3 * sd), median + 3 * sd) for v in column]
    return [(v - statistics.fmean(x)) / statistics.stdev(x) for v in x]


class Market(unittest.TestCase):
    def session(self, plain):
        names = ["portfolio", "marketdata", "factor"]
        chain = Chain(self, names, env={"ENABLE_HYBRID": "false" if plain else "true"}, args=OPTIONS)
        factor, market = chain["factor"], chain["marketdata"]
        self.assertEqual(factor.get("/factors/results/BTCUSDT").status, 404)
        got = market.post("/feeds", {"kind": "simulate", "seed": 7, "duration_s": 60, "rate": 400, "speed": 0})
        self.assertIn(got.status, (200, 201), got)
        known = wait_for(lambda: self.done(market) and market.get("/symbols").json["symbols"], 120)
        symbols = [s["symbol"] for s in known]
        bars = {s: market.get(f"/bars/{s}?spec=1s&limit=100").json["bars"] for s in symbols}
        for b in bars.values():
            b.sort(key=lambda x: x["ts_close"], reverse=True)
        last = {s: b[0]["ts_close"] for s, b in bars.items()}
        wait_for(lambda: all(self.stamp(factor, s) == last[s] for s in symbols))
        columns = [standardise(list(c)) for c in zip(*(raw(bars[s]) for s in symbols))]
        want = {s: dict(zip(FACTORS, row)) for s, row in zip(symbols, zip(*columns))}
        self.answers(factor, want)
        self.records(chain, want, plain)
        self.portfolio(chain, want)
        model = factor.post("/factors/model/estimate", {"factor_ids": ["momentum"]})
        self.assertEqual(model.status, 200, model)
        self.explained(model.json, bars)

    def done(self, market):
        return all(f["state"] == "COMPLETED" for f in market.get("/feeds").json["feeds"])

    def stamp(self, factor, symbol):
        got = factor.get(f"/factors/results/{symbol}")
        return got.json["results"][0]["timestamp"] if got.status == 200 else None

    def close(self, got, want):
        self.assertEqual(set(got), set(want))
        for name, value in want.items():
            self.assertAlmostEqual(got[name], value, 8, name)

    def answers(self, factor, want):
        for symbol, exposures in want.items():
            got = factor.post(f"/factors/calculate/{symbol}", [])
            self.assertEqual(got.status, 400, got)
            got = factor.call("POST", f"/factors/calculate/{symbol}")
            self.assertEqual(got.status, 200, got)
            self.assertEqual(got.json["universe"], len(want))
            self.close({r["factor_id"]: r["value"] for r in got.json["results"]}, exposures)

    def records(self, chain, want, plain):
        stream = "nautilus-factor-hybrid-streams" + ("" if plain else ":priority")

        def published():
            text = chain.redis.command("XREVRANGE", stream, "+", "-", "COUNT", str(len(want))).decode()
            found = [json.loads(x) for x in re.findall(r'\{"symbol".*\}', text)]
            return {r["symbol"]: r for r in found} if len(found) == len(want) else None

        def of_the_end():
            """The timer may have caught the cross-section on its way; the next time it is the whole."""
            found = published() or {}
            return all(s in found and found[s]["universe"] == len(want) and
                       all(abs(found[s]["exposures"].get(f, math.inf) - x) < 1e-9 for f, x in want[s].items())
                       for s in want) and found

        newest = max(self.stamp(chain["factor"], s) for s in want)
        for symbol, record in wait_for(of_the_end).items():
            self.assertEqual(record["as_of"], newest)
            self.close(record["exposures"], want[symbol])

    def portfolio(self, chain, want):
        """Weights by market value over equity, as portfolio itself states them, long one symbol and short another."""
        long, short = list(want)[:2]
        empty = chain["factor"].get("/factors/exposures/main")
        self.assertEqual(empty.status, 200, empty)
        self.close(empty.json["exposures"], {f: 0 for f in FACTORS})
        self.assertIsNone(empty.json["coverage"])
        positions = {long: {"quantity": "2", "avg_cost": "100"}, short: {"quantity": "-3", "avg_cost": "100"}}
        got = chain["portfolio"].post("/portfolios/main/positions", {"positions": positions})
        self.assertEqual(got.status, 200, got)
        held = chain["portfolio"].get("/portfolios/main").json
        weight = {p["symbol"]: float(p["market_value"]) / float(held["account"]["equity"]) for p in held["positions"]}
        got = chain["factor"].get("/factors/exposures/main").json
        self.close(got["exposures"], {f: sum(weight[s] * want[s][f] for s in weight) for f in FACTORS})
        self.assertAlmostEqual(got["coverage"], 1, 6)
        self.assertEqual(chain["factor"].get("/factors/exposures/nobody").json["code"], "unknown_portfolio")
        self.assertEqual(chain["factor"].get("/factors/attribution/main").json["code"], "no_model")

    def explained(self, model, bars):
        """Every return is market + exposure * factor + residual, with the exposures of the bar before, and what is left
        has no weighted part along them."""
        market, momentum = [f["return"] for f in model["factors"]]
        symbols = list(model["residuals"])
        self.assertGreaterEqual(len(symbols), 5)
        at = {s: next(i for i, b in enumerate(bars[s]) if b["ts_close"] == model["as_of"]) for s in symbols}
        before = {s: raw(bars[s][at[s] + 1:]) for s in symbols}
        z = dict(zip(symbols, standardise([before[s][0] for s in symbols])))
        along = 0
        for s in symbols:
            newer, older = [float(bars[s][at[s] + i]["close"]) for i in (0, 1)]
            self.assertAlmostEqual(newer / older - 1, market + z[s] * momentum + model["residuals"][s], 10, s)
            along += math.exp(before[s][4] / 2) * z[s] * model["residuals"][s]
        self.assertAlmostEqual(along / sum(math.exp(before[s][4] / 2) for s in symbols), 0, 12)

    def test_hybrid(self):
        self.session(False)

    def test_plain(self):
        self.session(True)


if __name__ == "__main__":
    unittest.main(verbosity=2)
