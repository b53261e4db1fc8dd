"""Compares what strategy, the venue, portfolio and risk say of the same session, exactly, from their own answers and files."""
import os
import sqlite3
from decimal import Decimal, ROUND_HALF_EVEN, getcontext
from keeltest import wait_for

getcontext().prec = 60
UNIT = Decimal("1e-9")


def all_fills(strategy):
    fills, after = [], 0
    while True:
        got = strategy.get(f"/fills?after={after}&limit=1000").exact["fills"]
        if not got:
            return fills
        fills += got
        after = got[-1]["fill_no"]


def all_orders(strategy, portfolio="main"):
    orders, after = [], None
    while True:
        page = strategy.get(f"/orders?portfolio_id={portfolio}&limit=1000" + (f"&after={after}" if after else "")).exact
        orders += page["orders"]
        after = page["next"]
        if not after:
            return orders


TERMINAL = {"DENIED", "REJECTED", "FILLED", "CANCELED", "EXPIRED"}


def picture(chain, portfolio="main"):
    """Everything the engines say, as comparable values."""
    strategy, risk, port = chain["strategy"], chain["risk"], chain["portfolio"]
    fills = all_fills(strategy)
    whole = port.get(f"/portfolios/{portfolio}").exact
    account = dict(whole["account"], fills=whole["fills"], ledger=whole["ledger"])
    positions = {p["symbol"]: Decimal(p["quantity"]) for p in
                 port.get(f"/portfolios/{portfolio}/positions?limit=1000").exact["positions"]}
    report = risk.post(f"/risk/report/{portfolio}").exact
    return {"fills": fills, "orders": all_orders(strategy, portfolio), "account": account,
            "portfolio": {s: q for s, q in positions.items() if q},
            "risk": {p["symbol"]: Decimal(p["quantity"]) for p in report["positions"] if Decimal(p["quantity"])},
            "risk_fills": report["fills"], "held": report["reservations"] + report["open_orders"]}


def settle(chain, seconds=180):
    """Until every order has ended and the counts of fills agree; the last picture."""
    last = {}

    def calm():
        try:
            last["p"] = picture(chain)
        except (OSError, KeyError, TypeError):
            return False
        p = last["p"]
        return (all(o["state"] in TERMINAL for o in p["orders"]) and p["held"] == 0 and
                len(p["fills"]) == p["account"]["fills"] == p["risk_fills"])
    try:
        wait_for(calm, seconds, 0.25)
    except AssertionError:
        p = last.get("p")
        if p is None:
            raise
        raise AssertionError("did not settle: " + str({
            "fills": len(p["fills"]), "portfolio": p["account"].get("fills"), "risk": p["risk_fills"], "held": p["held"],
            "open": [(o["client_order_id"], o["state"]) for o in p["orders"] if o["state"] not in TERMINAL][:10]}))
    return last["p"]


def verify(test, p, initial=Decimal(1000000)):
    """fills = positions = ledger = P&L, to the last unit; nothing twice; every reservation accounted for."""
    fills = p["fills"]
    test.assertEqual([f["fill_no"] for f in fills], list(range(1, len(fills) + 1)), "fill numbers have holes")
    ids = [(f["venue"], f["trade_id"]) for f in fills]
    test.assertEqual(len(set(ids)), len(ids), "a trade was recorded twice")
    held, cash, fees = {}, initial, Decimal(0)
    for f in fills:
        q, price = Decimal(f["quantity"]), Decimal(f["price"])
        sign = 1 if f["side"] == "BUY" else -1
        held[f["symbol"]] = held.get(f["symbol"], Decimal(0)) + sign * q
        cash -= sign * (q * price).quantize(UNIT, ROUND_HALF_EVEN) + Decimal(f["fee"]["amount"])
        fees += Decimal(f["fee"]["amount"])
    held = {s: q for s, q in held.items() if q}
    test.assertEqual(held, p["portfolio"], "sum of fills is not the portfolio's positions")
    test.assertEqual(held, p["risk"], "sum of fills is not risk's positions")
    account = p["account"]
    test.assertEqual(Decimal(account["cash"]), cash)
    test.assertEqual(Decimal(account["fees"]), fees)
    test.assertEqual(Decimal(account["ledger"]["sum"]), 0)
    if account["equity"] is not None:
        change = Decimal(account["equity_change"])
        test.assertEqual(change, Decimal(account["realized_pnl"]) + Decimal(account["unrealized_pnl"]) - fees)
        test.assertEqual(Decimal(account["equity"]), initial + change)
    for o in p["orders"]:
        of = sum((Decimal(f["quantity"]) for f in fills if f["client_order_id"] == o["client_order_id"]), Decimal(0))
        test.assertEqual(Decimal(o["filled_quantity"]), of, o["client_order_id"])
    test.assertEqual(p["held"], 0)


def venue_trades(folder):
    """The paper venue's own evidence: {trade_id: (client_order_id, quantity, price)} from its file."""
    db = sqlite3.connect(f"file:{os.path.join(folder, 'strategy', 'paper.db')}?mode=ro", uri=True)
    try:
        return {t: (o, Decimal(q), Decimal(p)) for t, o, q, p in
                db.execute("SELECT trade_id, client_order_id, quantity, price FROM venue_trades")}
    finally:
        db.close()
