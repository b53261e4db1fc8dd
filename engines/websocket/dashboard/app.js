/*
 * The dashboard. What comes over the WebSocket changes the state at once and the screen once an animation frame; what
 * the bus does not carry is asked for over REST. Every figure is an engine's: what is not known is shown as not known,
 * and what is old is grey.
 */
import { aligned, clockOf, dec, places, pretty, round, stamp, text } from '/dashboard/exact.js';
import { ask, onUnauthorized, Refused, Stream, token } from '/dashboard/link.js';
import { Chart } from '/dashboard/chart.js';
import { showChain } from '/dashboard/chain.js';

const $ = (id) => document.getElementById(id);
const ENGINES = ['marketdata', 'features', 'ml', 'strategy', 'risk', 'portfolio', 'analytics', 'factor', 'websocket'];
/* The operation each engine's target is about; the first that has run is shown. */
const CRITICAL = {
  marketdata: ['ingest', 'feed_slice'], features: ['calculate', 'bar'], ml: ['critical_predict', 'vector'],
  strategy: ['execute_internal', 'order', 'execute'], risk: ['critical_check'], portfolio: ['fill'],
  analytics: ['realtime', 'realtime_get', 'account'], factor: ['calculate', 'bar'], websocket: ['quote'],
};
const OPEN = ['SUBMITTED', 'ACCEPTED', 'TRIGGERED', 'PENDING_UPDATE', 'PENDING_CANCEL', 'PARTIALLY_FILLED', 'UNKNOWN'];
const SIGN = { FILLED: '■', PARTIALLY_FILLED: '◧', ACCEPTED: '○', SUBMITTED: '◌', CANCELED: '⊘', DENIED: '✕', REJECTED: '✕',
  EXPIRED: '⊘', UNKNOWN: '?', PENDING_CANCEL: '◌', PENDING_UPDATE: '◌' };
const VIEWS = { all: () => true, open: (o) => OPEN.includes(o.state), filled: (o) => o.state === 'FILLED',
  partial: (o) => o.partially === true, canceled: (o) => o.state === 'CANCELED' || o.state === 'EXPIRED',
  denied: (o) => o.state === 'DENIED' || o.state === 'REJECTED' };
const MOST_ORDERS = 200, MOST_FILLS = 400, MOST_BARS = 240, LEVELS = 10, DIFFER_MS = 2000, MOST_NEWEST = 1000;

const S = {
  portfolio: new URLSearchParams(location.search).get('portfolio') ?? 'main', symbol: null, symbols: [], withBook: new Set(), top: new Map(), spec: null,
  bars: [], quote: null, trade: null, book: null, bookAt: 0, clock: null,
  orders: new Map(), view: 'all', fills: new Map(), fillNo: null,
  ledger: { portfolio: null },
  live: false, differ: { money: 0, fills: 0 }, trading: null, mode: null, feeds: null, limits: [],
};

/* ---- drawing once a frame ---- */

const dirty = new Set();
let frame = 0;
function touch(...names) {
  names.forEach((n) => dirty.add(n));
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    const now = [...dirty];
    dirty.clear();
    for (const n of now) PAINT[n]();
  });
}

function put(node, words, title) {
  if (node.textContent !== words) node.textContent = words;
  if (title !== undefined && node.title !== title) node.title = title;
}

function el(tag, className, words) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (words !== undefined) e.textContent = words;
  return e;
}

const events = [];
function note(words) {
  events.unshift(`${new Date().toISOString().slice(11, 19)}  ${words}`);
  events.length = Math.min(events.length, 12);
  put($('events'), events[0], events.join('\n'));
}

/* ---- asking again and again ---- */

const loops = [];
/* fn every ms, never twice at a time; loop.now() asks at once. */
function every(ms, fn) {
  const loop = { timer: 0, busy: false, again: false };
  loop.now = async () => {
    if (loop.busy) { loop.again = true; return; }
    clearTimeout(loop.timer);
    loop.busy = true;
    try { await fn(); } catch (e) { if (!(e instanceof Refused || e instanceof TypeError || e instanceof DOMException)) console.error(e); }
    loop.busy = false;
    const soon = loop.again;
    loop.again = false;
    loop.timer = setTimeout(loop.now, soon ? 50 : ms);
  };
  loops.push(loop);
  return loop;
}

/* ---- engines ---- */

const tiles = {};
function makeTiles() {
  for (const name of ENGINES) {
    const li = el('li'), t = { li, sign: el('b', 'sign', '·'), status: el('span', 'status', '…'), p99: el('span', 'p99', '–'),
      bar: el('i'), breaker: el('span', '', '–'), age: el('span', 'n', '–'),
      up: 0, back: -Infinity };
    li.dataset.engine = name;
    li.dataset.status = 'unknown';
    const top = el('div', 'top'), track = el('div', 'track'), low = el('div', 'low');
    top.append(t.sign, el('span', 'name', name), t.status);
    track.append(t.bar);
    low.append(t.breaker, t.age);
    li.append(top, t.p99, track, low);
    $('tiles').append(li);
    tiles[name] = t;
  }
}

const seconds = (ms) => (ms < 100 ? '<0.1 s' : ms < 10000 ? `${(ms / 1000).toFixed(1)} s` : ms < 120000 ? `${Math.round(ms / 1000)} s` : `${Math.round(ms / 60000)} min`);
const ms3 = (us) => { const v = Number(us) / 1000; return v < 10 ? v.toFixed(2) : v < 100 ? v.toFixed(1) : v.toFixed(0); };

let delivery = null;
function worstOp(name, ops) {
  if (name === 'websocket' && Number(delivery?.count) > 0) return ['delivery', delivery.p99_us, '40000'];
  const found = CRITICAL[name].find((op) => Number(ops[op]?.count) > 0);
  return found ? [found, ops[found].p99_us, ops[found].target_us] : [CRITICAL[name][0], null, ops[CRITICAL[name][0]]?.target_us];
}

const BACK_MS = 5000;
/* An engine whose uptime began anew was away, however short: it is shown as that for a while. */
function statusOf(t, h) {
  if (!h) return 'away';
  const up = Number(h.uptime_seconds), now = performance.now();
  if (up < t.up) {
    t.back = now;
    note(`${h.engine} was restarted`);
  }
  t.up = up;
  return h.status === 'healthy' && now - t.back < BACK_MS ? 'restarted' : h.status;
}

function paintTile(name, v) {
  const t = tiles[name], h = v?.health, status = statusOf(t, h);
  const sign = { healthy: '●', degraded: '▲', unhealthy: '✕', away: '✕', restarted: '↻' }[status] ?? '?';
  const [op, p99, target] = worstOp(name, h?.performance?.operations ?? {});
  const breaker = h?.circuit_breaker?.state ?? '–', age = v?.message_age_ms;
  t.li.dataset.status = status;
  t.li.dataset.breaker = breaker;
  put(t.sign, sign);
  put(t.status, status);
  put(t.p99, p99 ? `p99 ${ms3(p99)} ${target ? `/ ${ms3(target)} ` : ''}ms` : h?.hybrid_integration === false ? 'plain: no p99' : h ? `target ${target ? ms3(target) : '–'} ms` : 'p99 –',
    `${op}: 99 % of all calls so far within this, against its target`);
  const share = p99 && target ? Math.min(1, Number(p99) / Number(target)) : 0;
  t.bar.style.width = `${share * 100}%`;
  t.li.dataset.over = p99 && target && Number(p99) > Number(target) ? 'yes' : 'no';
  put(t.breaker, `${/open/.test(breaker) ? '⚠ ' : ''}breaker ${breaker === 'disabled' ? 'off' : breaker}`);
  put(t.age, age === null || age === undefined ? 'no msg' : seconds(Number(age)), 'age of the last message on the bus');
  const bad = Object.entries(h?.dependencies ?? {}).filter(([, x]) => x.status !== 'healthy').map(([k, x]) => `${k}: ${x.detail ?? x.status}`);
  t.li.title = bad.length ? bad.join('\n') : `${op}, uptime ${h ? Math.round(Number(h.uptime_seconds)) : '–'} s`;
  t.li.setAttribute('aria-label', `${name}: ${status}, breaker ${breaker}, ${t.p99.textContent}, last message ${t.age.textContent}`);
}

const system = every(1000, async () => {
  try {
    const got = await ask('/system');
    S.mode = got.mode;
    for (const name of ENGINES) paintTile(name, got.engines[name]);
    $('tiles').classList.remove('stale');
  } catch (e) {
    $('tiles').classList.add('stale');
    if (e instanceof TypeError) paintTile('websocket', null);
    throw e;
  } finally {
    touch('mode');
  }
});

every(3000, async () => { delivery = (await ask('/metrics')).series?.delivery ?? null; });

/* ---- what the prices are ---- */

every(3000, async () => {
  try {
    S.feeds = (await ask('/api/marketdata/feeds')).feeds;
  } catch (e) {
    S.feeds = null;
    throw e;
  } finally {
    touch('mode');
  }
});

/* Where the prices come from, by what marketdata says of its feeds; where orders go, by the system's mode. */
function modeText() {
  const where = S.mode === 'live' ? 'LIVE' : S.mode ? 'PAPER' : 'MODE UNKNOWN';
  if (!S.feeds) return S.origin ? `${S.origin} / ${where}` : where;
  const f = S.feeds.find((x) => x.state === 'STARTED') ?? S.feeds[0];
  S.origin = !f ? null : f.kind === 'simulate' ? `SIMULATED seed ${f.seed}` : f.kind === 'replay' ? `REPLAY ${f.path.split('/').pop()}` : 'INGEST';
  return S.origin ? `${S.origin} / ${where}` : where;
}

/* ---- market data ---- */

const chart = new Chart($('plot'), (f) => openChain(f.client_order_id, f.trade_id));

function barOf(b) {
  const from = Number(stamp(b.ts_open) / 1000000n), to = Number(stamp(b.ts_close) / 1000000n);
  return { from, to, label: b.ts_close.slice(11, 19), open: Number(b.open), high: Number(b.high), low: Number(b.low), close: Number(b.close),
    decimals: Math.max(places(b.open), places(b.close), places(b.high), places(b.low)) };
}

async function loadSymbol() {
  const symbol = S.symbol;
  if (!symbol) return;
  for (const spec of ['1s', '1m', '1h', '1d']) {
    const got = await ask(`/api/marketdata/bars/${encodeURIComponent(symbol)}?spec=${spec}&limit=${MOST_BARS}`).catch(() => null);
    if (S.symbol !== symbol) return;
    if (!got || got.bars.length === 0) continue;
    S.spec = spec;
    S.bars = got.bars.reverse().map(barOf);
    break;
  }
  touch('chart');
  if (!S.withBook.has(symbol)) return;
  const book = await ask(`/api/marketdata/orderbook/${encodeURIComponent(symbol)}?depth=${LEVELS}`).catch(() => null);
  if (book && S.symbol === symbol && !S.book) S.book = book;
  touch('book');
}

const topicsOf = (symbol) => (symbol ? ['quote', 'trade', 'book', 'priority.bar'].map((t) => `marketdata.${t}:${symbol}`) : []);

function chooseSymbol(symbol) {
  if (symbol === S.symbol) return;
  stream.follow(topicsOf(symbol), topicsOf(S.symbol));
  Object.assign(S, { symbol, bars: [], quote: null, trade: null, book: null, spec: null });
  $('order').elements.price.value = '';
  put($('ticketsymbol'), symbol);
  touch('chart', 'book');
  loadSymbol();
}

const symbols = every(4000, async () => {
  const got = await ask('/api/marketdata/symbols?limit=1000'), names = got.symbols.map((s) => s.symbol);
  S.top = new Map(got.symbols.map((s) => [s.symbol, s]));
  S.withBook = new Set(got.symbols.filter((s) => s.book_state).map((s) => s.symbol));
  if (names.join() !== S.symbols.join()) {
    S.symbols = names;
    $('symbol').replaceChildren(...names.map((n) => new Option(n, n, n === S.symbol, n === S.symbol)));
  }
  if (!S.symbol && names.length) chooseSymbol(names.includes('BTCUSDT') ? 'BTCUSDT' : names[0]);
  $('symbol').value = S.symbol ?? '';
  if (S.symbol && S.bars.length < 2) loadSymbol();
  if (!S.trade || !S.book) touch('chart', 'book');
});

function paintChart() {
  const last = S.trade?.price ?? S.top.get(S.symbol)?.last ?? null;
  const decimals = Math.max(0, ...S.bars.slice(-40).map((b) => b.decimals));
  put($('last'), last ? pretty(aligned([last, (0).toFixed(decimals)])(last)) : '–', last ? `last trade, ${S.trade?.at ?? ''}` : '');
  put($('spec'), S.spec ? `bars of ${S.spec}` : '');
  const first = S.bars.slice(-120)[0];
  if (last && first) {
    const change = (Number(last) / first.open - 1) * 100;
    put($('move'), `${change < 0 ? '▼ −' : '▲ +'}${Math.abs(change).toFixed(3)} %`, `since ${first.label}`);
    $('move').className = change < 0 ? 'down' : 'up';
  } else {
    put($('move'), '');
  }
  put($('clock'), S.clock ? clockOf(S.clock) : '–', S.clock ?? '');
  chart.draw({ symbol: S.symbol, bars: S.bars, last, decimals, fills: [...S.fills.values()].filter((f) => f.symbol === S.symbol) });
}

const rungs = [];
function makeLadder() {
  const body = $('ladder').tBodies[0];
  for (let i = 0; i < 2 * LEVELS + 1; i++) {
    const tr = body.insertRow(), r = { tr, price: tr.insertCell(), size: tr.insertCell(), bar: el('i') };
    tr.className = i < LEVELS ? 'ask' : i === LEVELS ? 'mid' : 'bid';
    r.price.className = r.size.className = 'n';
    r.words = el('span');
    r.size.append(r.bar, r.words);
    tr.addEventListener('click', () => {
      if (r.value) $('order').elements.price.value = r.value;
    });
    rungs.push(r);
  }
}

/* A symbol without a book still has its best bid and ask. */
function bookOf() {
  if (S.book) return S.book;
  const q = S.quote ?? S.top.get(S.symbol);
  const side = (price, size) => (price ? [[price, size ?? '–']] : []);
  return q?.bid || q?.ask ? { state: 'QUOTE', bids: side(q.bid, q.bid_size), asks: side(q.ask, q.ask_size) } : null;
}

function paintBook() {
  const b = bookOf(), bids = b?.bids?.slice(0, LEVELS) ?? [], asks = b?.asks?.slice(0, LEVELS) ?? [];
  const all = [...bids, ...asks], price = aligned(all.map((l) => l[0])), size = aligned(all.map((l) => l[1]));
  const most = Math.max(1e-12, ...all.map((l) => Number(l[1]) || 0));
  const state = !S.live ? 'NOT LIVE' : b ? b.state : 'NO BOOK';
  put($('bookstate'), state === 'LIVE' ? '● LIVE' : state === 'QUOTE' ? 'best bid and ask only' : `▲ ${state}`);
  $('bookstate').dataset.state = state;
  rungs.forEach((r, i) => {
    const level = i < LEVELS ? asks[LEVELS - 1 - i] : i > LEVELS ? bids[i - LEVELS - 1] : null;
    r.value = level?.[0] ?? null;
    if (i === LEVELS) {
      const spread = bids[0] && asks[0] ? dec(asks[0][0]) - dec(bids[0][0]) : null;
      put(r.price, spread === null ? '–' : text(spread));
      put(r.words, 'spread');
      return;
    }
    put(r.price, level ? pretty(price(level[0])) : '\u00a0');
    put(r.words, level ? pretty(size(level[1])) : '\u00a0');
    r.bar.style.width = level ? `${((Number(level[1]) || 0) / most) * 100}%` : '0';
  });
  $('ladder').classList.toggle('stale', !['LIVE', 'QUOTE'].includes(state));
}

/* ---- orders ---- */

function makeViews() {
  for (const name of Object.keys(VIEWS)) {
    const b = el('button', 'chip', name);
    b.type = 'button';
    b.dataset.view = name;
    b.setAttribute('aria-pressed', String(name === S.view));
    b.addEventListener('click', () => { S.view = name; touch('orders'); });
    $('states').append(b);
  }
}

/* What comes again goes to the top: newest event first. */
function takeOrder(o, isNews) {
  if (o.portfolio_id !== S.portfolio) return;
  if (isNews) S.orders.delete(o.client_order_id);
  S.orders.set(o.client_order_id, o);
  while (S.orders.size > MOST_ORDERS) S.orders.delete(S.orders.keys().next().value);
}

async function loadOrders() {
  const portfolio = S.portfolio;
  const got = await ask(`/api/strategy/orders?portfolio_id=${encodeURIComponent(portfolio)}&limit=${MOST_ORDERS}`);
  if (portfolio !== S.portfolio) return;
  S.orders.clear();
  for (const o of got.orders.reverse()) takeOrder(o, false);
  $('orders').classList.remove('stale');
  touch('orders');
}
const orders = every(10000, () => loadOrders().catch((e) => { $('orders').classList.add('stale'); throw e; }));

const rows = new Map();
function makeRow(o) {
  const tr = el('tr'), r = { tr, cells: [] };
  for (let i = 0; i < 12; i++) {
    const td = tr.insertCell();
    if (i >= 5 && i <= 8) td.className = 'n';
    r.cells.push(td);
  }
  tr.dataset.order = o.client_order_id;
  r.why = el('button', 'quiet', 'chain');
  r.why.type = 'button';
  r.why.setAttribute('aria-label', `chain of ${o.client_order_id}`);
  r.why.addEventListener('click', () => openChain(o.client_order_id));
  r.cancel = el('button', 'cancel', 'cancel');
  r.cancel.type = 'button';
  r.cancel.setAttribute('aria-label', `cancel ${o.client_order_id}`);
  r.cancel.addEventListener('click', () => cancelOrder(o.client_order_id, r.cancel));
  r.cells[11].append(r.cancel, r.why);
  rows.set(o.client_order_id, r);
  return r;
}

function fillRow(r, o) {
  const wasPart = o.partially === true, part = wasPart && o.state !== 'PARTIALLY_FILLED' ? ' ◧' : '';
  const words = [clockOf(o.ts_event), o.strategy_id, o.symbol, `${o.side === 'BUY' ? '▲' : '▼'} ${o.side}`,
    `${o.order_type === 'MARKET' ? 'MKT' : 'LMT'} ${o.time_in_force}`, pretty(o.quantity), pretty(o.filled_quantity), pretty(o.price),
    o.avg_fill_price ? round(o.avg_fill_price, Math.max(places(o.price), Number(o.avg_fill_price) < 10 ? 5 : 2)) : '–', `${SIGN[o.state] ?? '?'} ${o.state}${part}`, o.reason ?? ''];
  words.forEach((w, i) => put(r.cells[i], w, i === 10 ? w : undefined));
  r.cells[3].className = o.side === 'BUY' ? 'up' : 'down';
  r.cells[8].title = o.avg_fill_price ?? '';
  r.cells[9].title = wasPart ? 'was partially filled' : '';
  r.tr.dataset.state = o.state;
  r.tr.dataset.part = wasPart ? 'yes' : 'no';
  r.cancel.hidden = !OPEN.includes(o.state) || o.state === 'PENDING_CANCEL';
}

function paintOrders() {
  const all = [...S.orders.values()].reverse(), body = $('orders').tBodies[0];
  for (const b of $('states').children) {
    const n = all.filter(VIEWS[b.dataset.view]).length;
    put(b, `${b.dataset.view} ${n}`);
    b.setAttribute('aria-pressed', String(b.dataset.view === S.view));
  }
  const shown = all.filter(VIEWS[S.view]);
  for (const [id, r] of rows) if (!S.orders.has(id)) { r.tr.remove(); rows.delete(id); }
  const keep = new Set(shown.map((o) => o.client_order_id));
  for (const [id, r] of rows) if (!keep.has(id) && r.tr.isConnected) r.tr.remove();
  shown.forEach((o, i) => {
    const r = rows.get(o.client_order_id) ?? makeRow(o);
    fillRow(r, o);
    if (body.rows[i] !== r.tr) body.insertBefore(r.tr, body.rows[i] ?? null);
  });
  $('noorders').hidden = shown.length > 0;
  put($('noorders'), S.view === 'all' ? `no orders in ${S.portfolio} yet` : `none of the last ${all.length} is ${S.view}`);
  put($('ordersnote'), all.length === MOST_ORDERS ? `newest ${MOST_ORDERS}` : '');
}

async function cancelOrder(id, button) {
  button.disabled = true;
  try {
    const o = await ask(`/api/strategy/orders/${encodeURIComponent(id)}`, { method: 'DELETE' });
    note(`${id}: ${o.state}`);
  } catch (e) {
    note(`${id} was not canceled: ${e.message}`);
  }
  button.disabled = false;
  orders.now();
}

$('order').addEventListener('submit', async (e) => {
  e.preventDefault();
  const f = new FormData(e.target), market = f.get('order_type') === 'MARKET', said = $('placed');
  const body = { client_order_id: `web-${Date.now().toString(36)}-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`,
    symbol: S.symbol, side: f.get('side'), quantity: f.get('quantity'), order_type: f.get('order_type'), time_in_force: f.get('time_in_force') };
  if (!market) body.price = f.get('price');
  if (!S.symbol || (!market && !body.price)) {
    said.className = 'error';
    put(said, S.symbol ? 'a limit order needs a price' : 'no symbol');
    return;
  }
  if (S.mode === 'live' && !await confirmed('Place order', `${body.side} ${body.quantity} ${body.symbol} on a live venue.`, 'Place', null)) return;
  $('place').disabled = true;
  put(said, 'sent');
  said.className = '';
  try {
    const got = await ask('/api/strategy/orders', { method: 'POST', body });
    put(said, `${got.status}: ${got.order?.state ?? 'unknown'}, filled ${got.order?.filled_quantity ?? '–'}`);
    if (got.order) takeOrder(got.order, true);
  } catch (x) {
    said.className = 'error';
    put(said, x instanceof Refused ? `${x.body?.code ?? x.status}: ${x.message}` : `no answer: ${x.message}; ask for ${body.client_order_id}`);
    if (x.body?.order) takeOrder(x.body.order, true);
  }
  $('place').disabled = false;
  touch('orders');
});

$('order').addEventListener('change', () => {
  const f = $('order').elements, market = f.order_type.value === 'MARKET';
  f.price.disabled = market;
  if (market && !['IOC', 'FOK'].includes(f.time_in_force.value)) f.time_in_force.value = 'IOC';
});

/* ---- fills ---- */

function takeFill(f) {
  const no = Number(f.fill_no);
  S.fillNo = Math.max(S.fillNo ?? 0, no);
  if (f.portfolio_id !== S.portfolio || S.fills.has(no)) return;
  S.fills.set(no, { ...f, fill_no: String(no), ms: Number(stamp(f.ts_event) / 1000000n) });
  while (S.fills.size > MOST_FILLS) S.fills.delete(Math.min(...S.fills.keys()));
}

/* To the end of strategy's journal. The first time only the newest are kept: portfolio's count tells about where they begin. */
async function pullFills(from) {
  for (let after = from, more = true; more;) {
    const got = await ask(`/api/strategy/fills?after=${after}&limit=1000`);
    got.fills.forEach(takeFill);
    more = got.fills.length === 1000;
    after = Number(got.fills[got.fills.length - 1]?.fill_no ?? after);
  }
}

/* ---- the two identities ---- */

function addPostings(sums, e, sign) {
  for (const p of e.postings) sums.set(p.account, (sums.get(p.account) ?? 0n) + sign * dec(p.amount));
}

function addEntry(L, e) {
  addPostings(L.sums, e, 1n);
  L.entries++;
  L.last = Math.max(L.last, Number(e.entry_id));
  L.newest.push(e);
  if (L.newest.length > MOST_NEWEST) L.newest.shift();
}

/* The sums as they were after so many entries, or null: what came since is taken off again. */
function sumsAt(L, entries) {
  const since = L.entries - entries;
  if (since < 0 || since > L.newest.length) return null;
  const sums = new Map(L.sums);
  for (const e of since ? L.newest.slice(-since) : []) addPostings(sums, e, -1n);
  return sums;
}

/* The ledger's own sums, from its postings: all of them once, then what is new. */
async function pullLedger() {
  const portfolio = S.portfolio, fresh = [];
  let L = S.ledger.portfolio === portfolio ? S.ledger : { portfolio, entries: 0, last: 0, sums: new Map(), newest: [] };
  for (let after = null, more = true; more;) {
    const got = await ask(`/api/portfolio/portfolios/${encodeURIComponent(portfolio)}/ledger?limit=${L.entries ? 50 : 1000}${after ? `&after=${after}` : ''}`);
    const news = got.entries.filter((e) => Number(e.entry_id) > L.last);
    fresh.push(...news);
    after = got.next;
    more = after !== null && news.length === got.entries.length;
  }
  if (portfolio !== S.portfolio) return;
  fresh.reverse().forEach((e) => addEntry(L, e));
  S.ledger = L;
}

/* Exactly equal, or not: and then, since when. Two engines that are asked one after another may differ for a moment. */
function judge(node, key, isEqual, words, patience = DIFFER_MS) {
  const now = performance.now();
  if (isEqual) S.differ[key] = 0;
  else S.differ[key] ||= now;
  const state = isEqual ? 'equal' : now - S.differ[key] < patience ? 'flight' : 'differ';
  show(node, state, state === 'equal' ? 'exact' : state === 'flight' ? 'in flight' : words);
}

function show(node, state, words) {
  node.dataset.state = state;
  put(node.querySelector('.mark'), { equal: '✓', flight: '…', differ: '✕', away: '?', none: '·' }[state]);
  put(node.querySelector('.verdict'), words);
}

function out(node, id, v) {
  put(node.querySelector(`[data-id=${id}]`), v === null || v === undefined ? '–' : pretty(v));
}

/* The largest first; what does not fit is counted. */
function paintPositions(list) {
  const MOST = 4, open = list.filter((x) => dec(x.quantity) !== 0n)
    .sort((a, b) => Math.abs(Number(b.market_value ?? 0)) - Math.abs(Number(a.market_value ?? 0)));
  const lines = open.slice(0, open.length > MOST ? MOST - 1 : MOST).map((x) => [x.symbol, pretty(x.quantity), x.unrealized_pnl ? round(x.unrealized_pnl, 2) : 'no mark']);
  if (open.length > MOST) lines.push([`${open.length - MOST + 1} more`, '', '']);
  if (open.length === 0) lines.push(['none', '', '']);
  const body = $('positions').tBodies[0];
  while (body.rows.length > lines.length) body.deleteRow(-1);
  lines.forEach((cells, i) => {
    const tr = body.rows[i] ?? body.insertRow();
    cells.forEach((c, k) => {
      const td = tr.cells[k] ?? tr.insertCell();
      td.className = k ? 'n' : '';
      put(td, c);
    });
  });
}

function judgeMoney(p) {
  const node = $('money'), a = p.account, sums = sumsAt(S.ledger, Number(p.ledger.entries));
  if (sums === null) { /* what is shown stays until both tell of the same moment */
    judge(node, 'money', false, `${S.ledger.entries} of ${p.ledger.entries} ledger entries`);
    return;
  }
  for (const id of ['equity_change', 'realized_pnl', 'unrealized_pnl', 'fees']) out(node, id, a[id]);
  if (a.equity_change === null || a.equity_change === undefined) {
    out(node, 'ledger', null);
    show(node, 'none', 'no mark, no equity');
    return;
  }
  const values = p.positions.reduce((sum, x) => sum + (dec(x.market_value) ?? 0n), 0n);
  const ledger = (sums.get('cash') ?? 0n) + (sums.get('capital') ?? 0n) + values;
  const zero = [...sums.values()].reduce((x, y) => x + y, 0n);
  const change = dec(a.equity_change), parts = dec(a.realized_pnl) + dec(a.unrealized_pnl) - dec(a.fees);
  out(node, 'ledger', text(ledger));
  judge(node, 'money', change === parts && change === ledger && zero === 0n,
    zero !== 0n ? `the ledger sums to ${text(zero)}` : 'they differ');
}

/*
 * Strategy is asked after portfolio, so it may be ahead: that is in flight as long as portfolio has all that strategy had
 * the time before. What it lacks of those, or has beyond strategy's, is a difference.
 */
async function judgeFills(there) {
  const node = $('fills'), before = S.fillNo ?? 0;
  await pullFills(S.fillNo ?? Math.max(0, there - 300));
  const here = S.fillNo ?? 0;
  out(node, 'there', String(there));
  out(node, 'here', String(here));
  if (there >= before && there < here) S.differ.fills = 0;
  judge(node, 'fills', there === here, there < here ? `${here - there} are not booked` : 'strategy has fewer');
}

const identity = every(700, async () => {
  const name = S.portfolio;
  let p;
  try {
    p = await ask(`/api/portfolio/portfolios/${encodeURIComponent(name)}`);
    await pullLedger();
  } catch (e) {
    const gone = e instanceof Refused && e.status === 404;
    show($('money'), 'away', gone ? 'no such portfolio' : 'portfolio away');
    show($('fills'), 'away', gone ? 'no such portfolio' : 'portfolio away');
    throw e;
  }
  if (name !== S.portfolio) return;
  judgeMoney(p);
  paintPositions(p.positions);
  try {
    await judgeFills(Number(p.last_fill_no));
  } catch (e) {
    show($('fills'), 'away', 'strategy away');
    throw e;
  }
  touch('chart');
});

/* ---- risk ---- */

const limits = new Map();
function paintLimit(l) {
  let r = limits.get(l.limit_id);
  if (!r) {
    r = { li: el('li'), name: el('span', 'name'), used: el('span', 'n'), bar: el('i'), track: el('div', 'track') };
    r.track.append(r.bar);
    r.li.append(r.name, r.used, r.track);
    $('limits').append(r.li);
    limits.set(l.limit_id, r);
  }
  const value = Number(l.value ?? 0), most = Number(l.limit), share = most > 0 ? value / most : 0;
  const isPerOrder = l.value === undefined, words = l.limit_type.replaceAll('_', ' ');
  put(r.name, l.symbol ? `${words} ${l.symbol}` : words, l.limit_id);
  put(r.used, isPerOrder ? `at most ${pretty(l.limit)}` : l.value === null ? `undefined / ${pretty(l.limit)}`
    : `${round(l.value, most < 10 ? 4 : 0)} / ${round(l.limit, most < 10 ? 2 : 0)}`, isPerOrder ? 'checked at each order' : `headroom ${pretty(l.headroom)}`);
  r.track.hidden = isPerOrder;
  r.bar.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  r.li.dataset.level = share >= 1 ? 'over' : share >= 0.8 ? 'near' : 'fine';
  r.li.setAttribute('aria-label', `${r.name.textContent}: ${r.used.textContent}, headroom ${pretty(l.headroom)}`);
}

every(5000, async () => { S.limits = (await ask('/api/risk/risk/limits?limit=1000')).limits; });

const STRICT = ['ACTIVE', 'REDUCING', 'HALTED'];
const risk = every(1000, async () => {
  const name = S.portfolio;
  try {
    const t = await ask('/api/risk/risk/trading-state');
    const own = t.portfolios?.find((x) => x.portfolio_id === name);
    const strictest = own && STRICT.indexOf(own.state) > STRICT.indexOf(t.state) ? own : t;
    S.trading = { state: strictest.state, reason: strictest.reason, knows: t.strategy_knows };
    touch('trading');
    const r = await ask(`/api/risk/risk/report/${encodeURIComponent(name)}`, { method: 'POST' });
    if (name !== S.portfolio) return;
    r.limits.forEach(paintLimit);
    const perOrder = S.limits.filter((l) => l.enabled && !r.limits.some((x) => x.limit_id === l.limit_id) &&
      (l.portfolio_id === null || l.portfolio_id === name));
    perOrder.forEach((l) => paintLimit({ ...l, limit: l.limit_value }));
    const there = new Set([...r.limits, ...perOrder].map((l) => l.limit_id));
    for (const [id, x] of limits) if (!there.has(id)) { x.li.remove(); limits.delete(id); }
    $('limits').classList.remove('stale');
  } catch (e) {
    $('limits').classList.add('stale');
    if (!(e instanceof Refused) || e.status >= 500) S.trading = null;
    touch('trading');
    throw e;
  }
});

function paintTrading() {
  const t = S.trading, node = $('trading');
  node.dataset.state = t?.state ?? 'unknown';
  put(node, t ? `${{ ACTIVE: '●', REDUCING: '◐', HALTED: '■' }[t.state]} ${t.state}` : '? risk does not answer');
  put($('tradingwhy'), t?.reason ? `${t.reason}${t.knows === false ? ' (strategy does not know yet)' : ''}` : '', t?.reason ?? '');
  $('halt').disabled = t?.state === 'HALTED';
  $('reduce').disabled = t?.state !== 'ACTIVE';
  $('resume').disabled = !t || t.state === 'ACTIVE';
  document.body.dataset.trading = t?.state ?? 'unknown';
}

/* Resolves to the reason given, or null. refused: what to say when the first try was. */
function confirmed(title, words, yes, refused) {
  const d = $('confirm');
  put($('confirmtitle'), title);
  put($('confirmtext'), words);
  put($('confirmyes'), yes);
  put($('confirmerror'), refused ?? '');
  if (!refused) $('reason').value = '';
  d.returnValue = '';
  d.showModal();
  $('reason').focus();
  return new Promise((done) => d.addEventListener('close', () => done(d.returnValue === 'yes' ? $('reason').value.trim() || 'by hand' : null), { once: true }));
}
$('confirmno').addEventListener('click', () => $('confirm').close('no'));

async function setTrading(state, title, words, yes) {
  let refused = null;
  for (;;) {
    const reason = await confirmed(title, words, yes, refused);
    if (reason === null) return;
    try {
      await ask('/api/risk/risk/trading-state', { method: 'PUT', body: { state, reason } });
      note(`trading state set to ${state}: ${reason}`);
      risk.now();
      return;
    } catch (e) {
      refused = e.message;
    }
  }
}
$('halt').addEventListener('click', () => setTrading('HALTED', 'Halt trading', 'Every open order is canceled and none is sent, in every portfolio, until someone resumes.', 'Halt'));
$('reduce').addEventListener('click', () => setTrading('REDUCING', 'Reduce only', 'Only orders that reduce a position are sent, in every portfolio.', 'Reduce only'));
$('resume').addEventListener('click', () => setTrading('ACTIVE', 'Resume trading', 'Orders are sent again. This needs the admin scope.', 'Resume'));

/* ---- portfolios ---- */

every(5000, async () => {
  const got = await ask('/api/portfolio/portfolios?limit=1000'), names = got.portfolios.map((p) => p.portfolio_id), box = $('portfolio');
  if (!names.includes(S.portfolio)) names.unshift(S.portfolio);
  if (names.join() !== [...box.options].map((o) => o.value).join()) box.replaceChildren(...names.map((n) => new Option(n, n)));
  box.value = S.portfolio;
});

const portfolioTopics = (p) => [`strategy.critical.order:${p}`, `strategy.critical.fill:${p}`, `portfolio.priority.account:${p}`, `risk.critical.breach:${p}`];
$('portfolio').addEventListener('change', (e) => {
  stream.follow(portfolioTopics(e.target.value), portfolioTopics(S.portfolio));
  S.portfolio = e.target.value;
  S.orders.clear();
  S.fills.clear();
  S.fillNo = null;
  [orders, identity, risk].forEach((l) => l.now());
  touch('orders', 'chart');
});
$('symbol').addEventListener('change', (e) => chooseSymbol(e.target.value));

/* ---- the stream ---- */

const HANDLE = {
  'marketdata.quote': (d, m) => { S.quote = d; S.clock = m.timestamp; touch('chart'); if (!S.book) touch('book'); },
  'marketdata.trade': (d, m) => { S.trade = { ...d, at: m.timestamp }; S.clock = m.timestamp; touch('chart'); },
  'marketdata.book': (d) => { S.book = d; touch('book'); },
  'marketdata.priority.bar': (d) => {
    if (S.spec === null) S.spec = d.spec;
    if (d.spec !== S.spec) return;
    const b = barOf(d), at = S.bars.findIndex((x) => x.from >= b.from);
    if (at < 0) S.bars.push(b);
    else S.bars.splice(at, S.bars[at].from === b.from ? 1 : 0, b);
    if (S.bars.length > MOST_BARS) S.bars.splice(0, S.bars.length - MOST_BARS);
    touch('chart');
  },
  'strategy.critical.order': (d) => { takeOrder(d, true); touch('orders'); },
  'strategy.critical.fill': (d) => { takeFill(d); touch('chart'); identity.now(); },
  'portfolio.priority.account': () => identity.now(),
  'risk.critical.trading_state': () => risk.now(),
  'risk.critical.breach': (d) => note(`breach ${d.breach_type}: ${d.detail ?? d.severity}`),
  'marketdata.critical.feed': (d) => { note(`feed ${d.feed_id} ${d.state}`); symbols.now(); },
};

const stream = new Stream({
  message(m) {
    const topic = m.topic.slice(0, m.topic.indexOf(':'));
    if (HANDLE[topic]) HANDLE[topic](m.data, m);
    else if (topic.endsWith('.critical.breaker')) {
      note(`breaker ${m.data.engine}.${m.data.target}: ${m.data.from} → ${m.data.to}${m.data.reason ? `, ${m.data.reason}` : ''}`);
      system.now();
    }
  },
  gap(topic, missed, reason) {
    note(`gap in ${topic}: ${missed ?? 'unknown number of'} messages missed (${reason}); asked again over REST`);
    [orders, identity, symbols].forEach((l) => l.now());
    if (S.symbol && topic.endsWith(`:${S.symbol}`)) loadSymbol();
  },
  state(words, isLive) {
    S.live = isLive;
    document.body.classList.toggle('lost', !isLive);
    put($('link'), isLive ? '● live' : `✕ ${words}`);
    touch('book');
  },
  opened(isAgain) {
    if (!isAgain) return;
    note('connected again');
    S.book = null;
    loadSymbol();
    loops.forEach((l) => l.now());
  },
});
stream.follow([...portfolioTopics(S.portfolio), 'risk.critical.trading_state', 'marketdata.critical.feed',
  ...ENGINES.map((e) => `${e}.critical.breaker`)], []);

let counted = 0;
setInterval(() => {
  put($('lag'), `${stream.count - counted} messages/s`);
  counted = stream.count;
}, 1000);

/* ---- chain, token, start ---- */

function openChain(id, tradeId) { showChain($('chain'), id, [...S.fills.values()], tradeId); }
$('chainclose').addEventListener('click', () => $('chain').close());
$('chain').addEventListener('click', (e) => { if (e.target === $('chain')) $('chain').close(); });

const PAINT = { chart: paintChart, book: paintBook, orders: paintOrders, trading: paintTrading,
  mode: () => { put($('mode'), modeText()); $('mode').dataset.mode = S.mode ?? 'unknown'; } };

let isAsking = false;
onUnauthorized(() => {
  if (isAsking) return;
  isAsking = true;
  put($('loginerror'), token.get() ? 'that token is not one of this system’s' : '');
  token.forget();
  $('login').showModal();
});
$('login').addEventListener('cancel', (e) => e.preventDefault());
$('login').addEventListener('close', () => {
  token.set($('secret').value);
  $('secret').value = '';
  isAsking = false;
  begin();
});
$('token').addEventListener('click', () => { token.forget(); location.reload(); });

/* The stream begins only when the data may be read: a refused upgrade tells a page nothing. */
async function begin() {
  $('token').hidden = !token.get();
  try {
    await ask('/system');
  } catch (e) {
    if (e instanceof Refused && e.status === 401) return;
  }
  stream.connect();
  loops.forEach((l) => l.now());
}

makeTiles();
makeLadder();
makeViews();
new ResizeObserver(() => touch('chart')).observe($('plot'));
touch('chart', 'book', 'orders', 'trading', 'mode');
begin();
