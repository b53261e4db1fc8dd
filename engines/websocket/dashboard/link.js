/*
 * The two ways to the engines, both through this origin: REST under /api, and one WebSocket that comes back by itself.
 * A channel's epoch and seq are kept, so that after a reconnection the server goes on where this page was or says how
 * much is missing.
 */
import { parseExact } from '/dashboard/exact.js';

const KEY = 'keel.token';

/* The token lives in this tab's session only. */
export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (v) => sessionStorage.setItem(KEY, v),
  forget: () => sessionStorage.removeItem(KEY),
};

export class Refused extends Error {
  constructor(status, body) {
    super(body?.detail ?? `the engine answered ${status}`);
    this.status = status;
    this.body = body;
  }
}

let needToken = () => {};
export function onUnauthorized(fn) { needToken = fn; }

/* Numbers come back as text. Throws Refused, or TypeError when nobody answers. */
export async function ask(path, { method = 'GET', body } = {}) {
  const headers = {};
  if (method !== 'GET') headers['Content-Type'] = 'application/json';
  else headers.Accept = 'application/json';
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  const sent = { method, headers, signal: AbortSignal.timeout(8000) };
  if (method !== 'GET') sent.body = JSON.stringify(body ?? {});
  const got = await fetch(path, sent);
  let json = null;
  try {
    json = parseExact(await got.text());
  } catch { /* not JSON: the status says enough */ }
  if (got.status === 401) needToken();
  if (!got.ok) throw new Refused(got.status, json);
  return json;
}

/* Only letters that a subprotocol may have; the rest as %XX, which the engine undoes. */
function protocolOf(secret) {
  return `keel.bearer.${Array.from(new TextEncoder().encode(secret), (b) => {
    const c = String.fromCharCode(b);
    return /[A-Za-z0-9._~-]/.test(c) ? c : `%${b.toString(16).toUpperCase().padStart(2, '0')}`;
  }).join('')}`;
}

const SILENT_MS = 6000, BEAT_MS = 2000, BACK_OFF = [250, 500, 1000, 2000, 4000];

export class Stream {
  /* on: {message(msg), gap(topic, missed, reason), state(text, isLive), opened(isAgain)} */
  constructor(on) {
    this.on = on;
    this.topics = new Set();
    this.seen = new Map(); /* channel -> {epoch, seq}, of what must not be missed */
    this.tries = 0;
    this.count = 0;
    this.wasOpen = false;
    setInterval(() => this.beat(), BEAT_MS);
  }

  connect() {
    clearTimeout(this.timer);
    const url = `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/ws/stream`;
    const ws = new WebSocket(url, token.get() ? ['keel.v1', protocolOf(token.get())] : ['keel.v1']);
    this.ws?.close();
    this.ws = ws;
    this.heard = performance.now();
    ws.onopen = () => ws === this.ws && this.opened();
    ws.onmessage = (e) => ws === this.ws && this.take(JSON.parse(e.data));
    ws.onclose = (e) => ws === this.ws && this.closed(e);
  }

  opened() {
    this.tries = 0;
    this.heard = performance.now();
    const resume = {};
    for (const [name, at] of [...this.seen].slice(-200)) if (this.covers(name)) resume[name] = at;
    this.send('subscribe', [...this.topics], resume);
    this.on.state('live', true);
    this.on.opened(this.wasOpen);
    this.wasOpen = true;
  }

  closed(e) {
    const wait = BACK_OFF[Math.min(this.tries++, BACK_OFF.length - 1)] * (0.8 + 0.4 * Math.random());
    const why = e.reason ? ` (${e.reason})` : '';
    this.on.state(`connection lost${why}, next try in ${(wait / 1000).toFixed(1)} s`, false);
    this.ws = null;
    this.timer = setTimeout(() => this.connect(), wait);
  }

  /* Each beat is answered. A server that hangs does not answer a close either, so that is not waited for. */
  beat() {
    const ws = this.ws;
    if (!ws) return;
    if (performance.now() - this.heard > SILENT_MS) {
      this.closed({ reason: 'no answer' });
      ws.close();
    } else if (ws.readyState === WebSocket.OPEN) {
      ws.send('{"type":"heartbeat"}');
    }
  }

  covers(channel) {
    for (const t of this.topics)
      if (t.endsWith('*') ? channel.startsWith(t.slice(0, -1)) : channel === t || channel.startsWith(`${t}:`)) return true;
    return false;
  }

  send(type, topics, resume) {
    if (this.ws?.readyState !== WebSocket.OPEN || topics.length === 0) return;
    this.ws.send(JSON.stringify(Object.keys(resume ?? {}).length ? { type, topics, resume } : { type, topics }));
  }

  follow(add, drop) {
    const gone = drop.filter((t) => this.topics.delete(t)), come = add.filter((t) => !this.topics.has(t));
    come.forEach((t) => this.topics.add(t));
    this.send('unsubscribe', gone);
    this.send('subscribe', come);
  }

  take(msg) {
    this.heard = performance.now();
    this.count++;
    if (msg.data?.event === 'gap') {
      if (msg.data.reason === 'epoch') this.seen.delete(msg.topic);
      this.on.gap(msg.topic, msg.data.missed, msg.data.reason);
      return;
    }
    if (msg.type === 'error') {
      this.on.gap(msg.topic, null, msg.data.detail);
      return;
    }
    if (msg.seq === undefined || msg.type === 'subscription') return;
    /* Of market data the newest is enough; all else is resumed. */
    if (!/^marketdata\.(quote|trade|book)/.test(msg.topic)) this.seen.set(msg.topic, { epoch: msg.epoch, seq: msg.seq });
    this.on.message(msg);
  }
}
