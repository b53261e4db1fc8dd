/*
 * Why a fill happened, step by step: quote, feature, prediction, risk, order, fill, ledger entry. Everything is asked
 * for again when the chain opens; a step that did not take part says so. Each step has the command that shows the same
 * figure outside the browser.
 */
import { clockOf, pretty, span, stamp } from '/dashboard/exact.js';
import { ask, token } from '/dashboard/link.js';

function curl(path) {
  const auth = token.get() ? ' -H "Authorization: Bearer $KEEL_TOKEN"' : '';
  return `curl -s${auth} '${location.origin}${path}'`;
}

const esc = encodeURIComponent;

function quoteStep(o, d, basis) {
  const q = basis?.quote;
  if (!q) return { name: 'quote', none: 'the order came by hand: its limit is what was typed' };
  return { name: 'quote', at: d.received_at, what: 'received by marketdata', path: `/api/strategy/orders/${esc(o.client_order_id)}`,
    figures: [['bid', q.bid], ['ask', q.ask], ['seen', q.seen]] };
}

function featureStep(o, d, basis) {
  const v = basis?.vector, p = basis?.prediction, path = `/api/strategy/orders/${esc(o.client_order_id)}`;
  if (!v && p) return { name: 'feature', session: p.as_of, what: `vector of the ${p.spec ?? ''} bar: the model's input`, path, figures: [['as of', p.as_of]] };
  if (!v) return { name: 'feature', none: 'no feature took part' };
  return { name: 'feature', session: v.ts_close, what: `bar ${v.spec} closed`, path,
    figures: [['close', v.close], ...Object.entries(v.features)], note: basis.reason };
}

function predictionStep(o, d, basis) {
  const p = basis?.prediction;
  if (!p) return { name: 'prediction', none: basis ? `${o.strategy_id} acts on features: it asked no model` : 'no model took part' };
  return { name: 'prediction', session: p.as_of, what: `${p.model_id} ${p.version ? `v${p.version}` : ''}`,
    path: `/api/strategy/orders/${esc(o.client_order_id)}`, note: basis.reason,
    figures: ['prediction_id', 'direction', 'change_percent', 'confidence', 'target_price', 'value', 'backend']
      .filter((k) => p[k] !== undefined && p[k] !== null).map((k) => [k.replace('_', ' '), p[k]]) };
}

function riskStep(o, d) {
  const r = d.risk?.decision;
  if (!r) return { name: 'risk', none: o.fallback_reason ?? o.reason ?? 'risk was not asked' };
  const denied = r.denials?.length > 0, list = denied ? r.denials : r.checks ?? [];
  return { name: 'risk', at: d.risk.answered_at, since: d.risk.asked_at, bad: denied,
    what: `${r.approved === true ? 'approved' : 'denied'}, trading ${r.trading_state ?? '–'}`,
    path: `/api/strategy/orders/${esc(o.client_order_id)}`,
    table: list.map((c) => [c.limit_id ?? c.code, c.value, c.limit, c.headroom]), heads: ['limit', 'value', 'of', 'headroom'] };
}

function orderStep(o, d) {
  return { name: 'order', at: d.submitted_at, what: `${o.state}, given to the journal`, bad: o.state === 'DENIED',
    path: `/api/strategy/orders/${esc(o.client_order_id)}`, note: o.reason,
    figures: [['id', o.client_order_id], [o.side.toLowerCase(), o.quantity], ['limit', o.price ?? 'market'], ['in force', o.time_in_force],
      ['filled', o.filled_quantity]] };
}

function fillSteps(o, fills) {
  if (fills.length === 0) return [{ name: 'fill', none: o.state === 'DENIED' ? 'denied: nothing was sent' : 'not filled' }];
  return fills.map((f) => ({ name: 'fill', session: f.ts_event, what: f.liquidity.toLowerCase(),
    path: `/api/strategy/fills?after=${f.fill_no - 1}&limit=1`,
    figures: [['trade', f.trade_id], ['no', f.fill_no], ['quantity', f.quantity], ['price', f.price], ['fee', f.fee.amount]] }));
}

const NOT_BOOKED = 'not booked yet';

function ledgerSteps(o, entries, fills) {
  if (fills.length === 0) return [{ name: 'ledger', none: 'nothing to book' }];
  if (entries.length < fills.length) return [{ name: 'ledger', none: NOT_BOOKED }];
  return entries.map((e) => ({ name: 'ledger', at: e.booked_at, what: `entry ${e.entry_id} booked`, trace: e.trace_id,
    path: `/api/portfolio/portfolios/${esc(o.portfolio_id)}/ledger?client_order_id=${esc(o.client_order_id)}`,
    figures: [...e.postings.map((p) => [p.symbol ? `${p.account} ${p.symbol}` : p.account, p.amount]), ['sum', e.sum]] }));
}

/* All of the order's fills with their numbers; `known` may have them. */
async function fillsOf(o, known) {
  if ((o.fills ?? []).length === 0) return [];
  const have = known.filter((f) => f.client_order_id === o.client_order_id);
  if (have.length === o.fills.length) return have;
  const first = have.reduce((n, f) => Math.min(n, Number(f.fill_no)), Infinity);
  const got = await ask(`/api/strategy/fills?after=${Number.isFinite(first) ? Math.max(0, first - 200) : 0}&limit=1000`);
  return got.fills.filter((f) => f.client_order_id === o.client_order_id);
}

/* The steps of an order, and what they say of its one trace. only: a trade id, to show that fill alone. */
export async function chainOf(id, known, only) {
  const o = await ask(`/api/strategy/orders/${esc(id)}`), d = o.decision ?? {}, basis = d.basis;
  let fills = await fillsOf(o, known), entries = [];
  if (fills.length > 0) {
    const got = await ask(`/api/portfolio/portfolios/${esc(o.portfolio_id)}/ledger?client_order_id=${esc(id)}`);
    entries = got.entries.reverse();
  }
  if (only) {
    fills = fills.filter((f) => f.trade_id === only);
    entries = entries.filter((e) => e.ref.endsWith(` ${only}`));
  }
  const steps = [quoteStep(o, d, basis), featureStep(o, d, basis), predictionStep(o, d, basis), riskStep(o, d), orderStep(o, d),
    ...fillSteps(o, fills), ...ledgerSteps(o, entries, fills)];
  const traces = new Set([d.trace_id, ...steps.map((s) => s.trace)].filter(Boolean));
  return { order: o, steps, traces: [...traces] };
}

function el(tag, className, words) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (words !== undefined) e.textContent = words;
  return e;
}

function figuresOf(s) {
  if (s.table) {
    const t = el('table', 'checks'), head = t.createTHead().insertRow();
    s.heads.forEach((h, i) => head.append(el('th', i ? 'n' : '', h)));
    const body = t.createTBody();
    for (const row of s.table) {
      const tr = body.insertRow();
      row.forEach((c, i) => {
        const td = el('td', i ? 'n' : '', i ? pretty(c) : c);
        if (c !== undefined && c !== null) td.dataset.figure = c;
        tr.append(td);
      });
    }
    return t;
  }
  const dl = el('dl');
  for (const [k, v] of s.figures) {
    if (v === undefined || v === null) continue;
    const pair = el('div');
    const dd = el('dd', '', pretty(v));
    dd.dataset.figure = v;
    pair.append(el('dt', '', k), dd);
    dl.append(pair);
  }
  return dl;
}

/* Two clocks are at work: the market's (session) and the machine's. Only stamps of the same one are subtracted. */
function stepElement(s, clocks) {
  const li = el('li', s.none ? 'none' : s.bad ? 'bad' : '');
  li.dataset.step = s.name;
  const head = el('div', 'stephead');
  head.append(el('b', '', s.name), el('span', 'dim', s.none ?? s.what));
  const when = s.at ?? s.session;
  if (when) {
    const t = el('time', 'n', clockOf(when)), side = el('span', 'side'), at = stamp(when), clock = s.at ? clocks.machine : clocks.market;
    t.title = `${when}, ${s.at ? "the machine's clock" : "the market's clock"}`;
    t.dateTime = when;
    side.append(el('span', 'delta n', clock.before !== null ? span(at - clock.before) : ''),
      el('span', 'dim', s.at ? (clock.first !== null ? `${span(at - clock.first)} in all` : 'machine time') : 'market time'));
    head.append(t, side);
    clock.first ??= at;
    clock.before = at;
  }
  li.append(head);
  if (s.none) return li;
  li.append(figuresOf(s));
  if (s.note) li.append(el('p', 'dim', s.note));
  const row = el('div', 'curl'), copy = el('button', 'quiet', 'copy');
  copy.type = 'button';
  copy.setAttribute('aria-label', `copy the command of ${s.name}`);
  const command = el('code', '', curl(s.path));
  copy.addEventListener('click', () => navigator.clipboard?.writeText(command.textContent)
    .then(() => { copy.textContent = 'copied'; }, () => getSelection().selectAllChildren(command)));
  row.append(command, copy);
  li.append(row);
  return li;
}

/* What is not booked yet is asked for again. */
const AGAIN_MS = 500, TRIES = 60;
let shown = 0;

async function paint(dialog, id, known, only) {
  const steps = dialog.querySelector('#steps'), trace = dialog.querySelector('#trace');
  let isBooked = true;
  try {
    const c = await chainOf(id, known, only);
    trace.textContent = c.traces.length === 1 ? `trace ${c.traces[0]}` : c.traces.length ? `traces ${c.traces.join(', ')}` : 'no trace kept';
    trace.dataset.traces = c.traces.join(' ');
    trace.className = c.traces.length === 1 ? '' : 'error';
    isBooked = !c.steps.some((s) => s.none === NOT_BOOKED);
    const clocks = { machine: { first: null, before: null }, market: { first: null, before: null } };
    steps.replaceChildren(...c.steps.map((s) => stepElement(s, clocks)));
  } catch (e) {
    steps.replaceChildren(el('li', 'bad', `the chain cannot be shown: ${e.message}`));
  }
  return isBooked;
}

export async function showChain(dialog, id, known, only) {
  const mine = ++shown;
  dialog.querySelector('#chaintitle').textContent = id;
  dialog.querySelector('#trace').textContent = '';
  dialog.querySelector('#steps').replaceChildren(el('li', 'none', 'asking the engines'));
  if (!dialog.open) dialog.showModal();
  for (let i = 0; i < TRIES && mine === shown && dialog.open; i++) {
    if (await paint(dialog, id, known, only)) return;
    await new Promise((done) => { setTimeout(done, AGAIN_MS); });
  }
}
