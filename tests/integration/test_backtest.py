"""Backtests over HTTP against a second implementation, this file, on 23 years of daily bars (shared/data, LEAN): every
fill, the equity to the last unit, the measures. And on marketdata's own bars, which must give what the same bars give
when they are posted."""
import csv
import datetime
import itertools
import math
import os
import random
import statistics
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "support"))
from keeltest import Chain, shared  # noqa: E402

SCALE = 10**9
YEAR_S = 365 * 86400


def divided(a, b):
    """a / b rounded half to even; b > 0."""
    q, r = divmod(a, b)
    return q + (2 * r > b or (2 * r == b and q % 2 == 1))


def units(text):
    whole, _, part = str(text).partition(".")
    v = int(whole.lstrip("-")) * SCALE + int((part + "0" * 9)[:9])
    return -v if whole.startswith("-") else v


def text(v):
    t = f"{abs(v) // SCALE}.{abs(v) % SCALE:09d}".rstrip("0").rstrip(".")
    return "-" + t if v < 0 else t


class Book:
    """What fills do to cash and position: average cost, a close takes its rounded share."""

    def __init__(self, cash, rates):
        self.cash, self.rates = cash, rates
        self.held = self.cost = self.realized = self.fees = 0
        self.fills = []

    def fill(self, ts, side, q, price, maker):
        notional = divided(price * q, SCALE)
        fee = divided(notional * self.rates[maker], SCALE)
        sign = 1 if side == "BUY" else -1
        closes = min(q, abs(self.held)) if self.held * sign < 0 else 0
        realized = 0
        if closes:
            part = notional if closes == q else divided(notional * closes, q)
            share = self.cost if closes == abs(self.held) else \
                (1 if self.cost >= 0 else -1) * divided(abs(self.cost) * closes, abs(self.held))
            realized = -sign * part - share
            self.cost += sign * (notional - part) - share
        else:
            self.cost += sign * notional
        self.held += sign * q
        self.realized += realized
        self.fees += fee
        self.cash -= sign * notional + fee
        self.fills.append((ts, side, text(q), text(price), text(fee), text(realized), "MAKER" if maker else "TAKER"))


def run(bars, d, spread_bps=2, participation=units("0.1"), fees=("0.0004", "0.0002"), cash=units(100000)):
    """d: the definition's parameters. Averages of closes that cross; orders meet the next bar."""
    book, equity, resting, order = Book(cash, [units(f) for f in fees]), [], [], None
    half = (spread_bps * SCALE // 10000 + 1) // 2
    fast, slow = (int(d[k].split("_")[1]) for k in ("fast", "slow"))
    market, offset = d["order_type"] == "MARKET", d.get("price_offset_bps", 0)
    known, zone = False, 0
    for i, b in enumerate(bars):
        left = divided(b["volume"] * participation, SCALE)
        away = -(-b["open"] * half // SCALE)
        bid, ask = b["open"] - away, b["open"] + away
        opened = bars[i - 1]["ts_close"] if i else b["ts_close"]
        for at_open in (True, False):
            for r in list(resting):
                buys = r["side"] == "BUY"
                if at_open:
                    fills = r["price"] >= ask if buys else r["price"] <= bid
                else:
                    fills = b["low"] < r["price"] if buys else b["high"] > r["price"]
                q = min(r["q"], left) if fills else 0
                if q:
                    book.fill(opened if at_open else b["ts_close"], r["side"], q, r["price"], True)
                    r["q"] -= q
                    left -= q
                    if not r["q"]:
                        resting.remove(r)
            if at_open and order:
                buys = order["side"] == "BUY"
                touch = ask if buys else bid
                good = market or (order["price"] >= touch if buys else order["price"] <= touch)
                q = min(order["q"], left) if good else 0
                if q:
                    book.fill(opened, order["side"], q, touch, False)
                    left -= q
                if d["time_in_force"] == "GTC" and order["q"] > q:
                    resting.append({**order, "q": order["q"] - q, "since": opened})
                order = None
        age = d.get("max_age_s")
        resting = [r for r in resting if not age or b["ts_close"] - r["since"] < age * SCALE]
        equity.append(book.cash + (divided(book.held * b["close"], SCALE) if book.held >= 0
                                   else -divided(-book.held * b["close"], SCALE)))
        if i + 1 < slow:
            continue
        mean = [statistics.fmean(x["close"] / SCALE for x in bars[i + 1 - n:i + 1]) for n in (fast, slow)]
        now = 1 if mean[0] > mean[1] else -1 if mean[0] < mean[1] else zone
        enters, known, zone = known and now != zone and now != 0, known or now != 0, now
        if not enters or i + 1 == len(bars):
            continue
        size = divided(units(d["notional"]) * SCALE, b["close"])
        pending = {s: sum(r["q"] for r in resting if r["side"] == s) for s in ("BUY", "SELL")}
        room = size - book.held - pending["BUY"] if now > 0 else \
            book.held - pending["SELL"] + (0 if d.get("long_only") else size)
        q = min(size, room)
        q -= q % units(d.get("lot", "0.000001")) if q > 0 else q
        if not q:
            continue
        passive, buys = offset > 0, now > 0
        away = -(-b["close"] * half // SCALE)
        touch = b["close"] - away if buys == passive else b["close"] + away
        price = round(touch / SCALE * (1 + (-1 if buys == passive else 1) * abs(offset) * 1e-4) * SCALE)
        tick = units("0.01")
        price += 0 if price % tick == 0 else -(price % tick) if buys else tick - price % tick
        order = {"side": "BUY" if buys else "SELL", "q": q, "price": price}
    return book, equity


def spy():
    bars = []
    with open(shared("data/lean_us_equity_daily/spy.csv"), newline="") as f:
        for day, *figures in csv.reader(f):
            at = datetime.datetime.strptime(day.split()[0], "%Y%m%d").replace(hour=21, tzinfo=datetime.timezone.utc)
            o, h, l, c, v = (int(float(x)) for x in figures)
            bars.append(dict(ts_close=int(at.timestamp()) * SCALE, open=o * 10**5, high=h * 10**5, low=l * 10**5,
                             close=c * 10**5, volume=v * SCALE))
    return bars


def as_json(bars):
    return [{k: v if k == "ts_close" else text(v) for k, v in b.items()} for b in bars]


RULES = {
    "crosses": {"fast": "sma_20", "slow": "sma_50", "notional": 20000, "order_type": "MARKET", "time_in_force": "IOC"},
    "limits": {"fast": "sma_10", "slow": "sma_50", "notional": 30000, "order_type": "LIMIT", "time_in_force": "IOC",
               "price_offset_bps": -5, "long_only": True},
    "rests": {"fast": "sma_10", "slow": "sma_20", "notional": 25000, "order_type": "LIMIT", "time_in_force": "GTC",
              "price_offset_bps": 30, "max_age_s": 864000},
}


class Backtest(unittest.TestCase):
    def define(self, strategy, name, parameters, **more):
        body = {"strategy_id": name, "strategy_name": name, "kind": "ma_cross", "symbols": ["SPY"],
                "parameters": parameters, **more}
        self.assertEqual(strategy.post("/strategies", body).status, 200)

    def agree(self, got, bars, book, equity):
        r = got["result"]
        self.assertGreater(len(book.fills), 20)  # else nothing was compared
        self.assertEqual(r["fills"], len(book.fills))
        shown = [(f["ts_event"], f["side"], f["quantity"], f["price"], f["fee"], f["realized_pnl"], f["liquidity"])
                 for f in got["fills"]]
        stamp = {b["ts_close"]: b for b in bars}
        for mine, theirs in zip(book.fills, shown):
            at = datetime.datetime.fromtimestamp(mine[0] // SCALE, datetime.timezone.utc)
            self.assertIn(mine[0], stamp)
            self.assertEqual((f"{at:%Y-%m-%dT%H:%M:%S}.000000000Z", *mine[1:]), theirs)
        self.assertEqual(r["final_equity"], text(equity[-1]))
        self.assertEqual((r["realized_pnl"], r["fees"], r["position"]),
                         (text(book.realized), text(book.fees), text(book.held)))
        self.assertEqual(units(r["unrealized_pnl"]),
                         equity[-1] - units(100000) - book.realized + book.fees)
        step = [b / a - 1 for a, b in zip(equity, equity[1:])]
        ppy = (len(bars) - 1) / ((bars[-1]["ts_close"] - bars[0]["ts_close"]) / SCALE / YEAR_S)
        near = {"total_return_pct": 100 * (equity[-1] / units(100000) - 1),
                "buy_and_hold_pct": 100 * (bars[-1]["close"] / bars[0]["close"] - 1),
                "volatility_pct": 100 * statistics.stdev(step) * math.sqrt(ppy),
                "sharpe_ratio": statistics.fmean(step) / statistics.stdev(step) * math.sqrt(ppy),
                "max_drawdown_pct": 100 * max(1 - e / top for e, top in zip(equity, itertools.accumulate(equity, max))),
                "periods_per_year": ppy}
        for name, want in near.items():
            self.assertAlmostEqual(r[name], want, delta=1e-8 * max(1, abs(want)), msg=name)
        self.assertLess(r["sharpe_low"], r["sharpe_ratio"])
        self.assertGreater(r["sharpe_high"], r["sharpe_ratio"])
        self.assertEqual(got["equity_curve"][-1]["equity"], text(equity[-1]))

    def test_against_this_file(self):
        bars = spy()
        strategy = Chain(self, ["strategy"])["strategy"]
        for name, parameters in RULES.items():
            with self.subTest(name):
                self.define(strategy, name, parameters)
                got = strategy.post(f"/strategies/{name}/test", {"bars": as_json(bars), "resamples": 500})
                self.assertEqual(got.status, 200, got)
                self.agree(got.json, bars, *run(bars, parameters))
                again = strategy.post(f"/strategies/{name}/test", {"bars": as_json(bars), "resamples": 500})
                self.assertEqual({**got.json, "processing_time_ms": 0}, {**again.json, "processing_time_ms": 0})
        year = [b for b in bars if b["ts_close"] > bars[-1]["ts_close"] - 365 * 86400 * SCALE]
        cut = strategy.post("/strategies/crosses/test", {"bars": as_json(bars), "duration_days": 365})
        alone = strategy.post("/strategies/crosses/test", {"bars": as_json(year)})
        self.assertEqual(cut.json["result"], alone.json["result"])
        self.assertEqual(cut.json["result"]["bars"], len(year))

    def test_marketdatas_bars(self):
        chain = Chain(self, ["marketdata", "strategy"])
        market, strategy = chain["marketdata"], chain["strategy"]
        rule = {**RULES["crosses"], "fast": "sma_10", "slow": "sma_20", "notional": "1000"}
        self.define(strategy, "minutes", rule, symbols=["BTCUSDT"], spec="1m")
        self.assertEqual(strategy.post("/strategies/minutes/test", {}).code(), "no_bars")
        rng, price, items = random.Random(5), 60000.0, []
        for i in range(1200):
            o, price = price, price * math.exp(rng.gauss(0, 1e-3))
            stamp = datetime.datetime(2026, 3, 1, tzinfo=datetime.timezone.utc) + datetime.timedelta(minutes=i + 1)
            items.append({"symbol": "BTCUSDT", "data_type": "bar", "source": "test", "timestamp": stamp.isoformat(), "data": {
                "spec": "1m", "open": round(o, 2), "high": round(max(o, price) + 5, 2), "low": round(min(o, price) - 5, 2),
                "close": round(price, 2), "volume": 40}})
        for at in range(0, len(items), 400):
            got = market.post("/data/ingest", {"data": items[at:at + 400]})
            self.assertEqual((got.status, got.json.get("count")), (200, 400), got)
        kept, after = [], ""
        while True:
            page = market.get(f"/bars/BTCUSDT?spec=1m&limit=1000{after}").json
            kept += page["bars"]
            if page["next"] is None:
                break
            after = f"&after={page['next']}"
        self.assertEqual(len(kept), len(items))  # three pages of the engine's
        got = strategy.post("/strategies/minutes/test", {})
        self.assertEqual(got.status, 200, got)
        self.assertEqual((got.json["result"]["bars"], got.json["result"]["bars_of"]), (len(kept), "marketdata"))
        self.assertGreater(got.json["result"]["fills"], 10)
        posted = strategy.post("/strategies/minutes/test", {"bars": kept[::-1]}).json
        for part in ("fills", "equity_curve"):
            self.assertEqual(got.json[part], posted[part])
        market.stop()
        self.assertEqual(strategy.ask("POST", "/strategies/minutes/test", {}).code(), "marketdata_unavailable")


if __name__ == "__main__":
    unittest.main()
