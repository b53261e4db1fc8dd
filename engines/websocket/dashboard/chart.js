/*
 * Bars, the last price and the marks of our fills on a canvas. Positions on the screen are the only floating point; the
 * figures themselves stay text. A mark's place is kept so that a click finds its fill.
 */
import { aligned, clockOf } from '/dashboard/exact.js';

const STYLE = { up: '#41b48a', down: '#e0666e', grid: '#1c242e', text: '#8a98a8', last: '#6ea8dc', ring: '#0e131a' };
const PAD = { left: 8, right: 74, top: 10, bottom: 18 };
const HIT = 9, MOST_BARS = 120, LEAST_SLOTS = 60, TIME_GAP = 84;

/* 1, 2 or 5 times a power of ten. */
function stepOf(rough) {
  const p = 10 ** Math.floor(Math.log10(rough)), m = rough / p;
  return (m <= 1 ? 1 : m <= 2 ? 2 : m <= 5 ? 5 : 10) * p;
}

export class Chart {
  constructor(canvas, onFill) {
    this.canvas = canvas;
    this.g = canvas.getContext('2d');
    this.marks = [];
    canvas.addEventListener('click', (e) => {
      const f = this.at(e.offsetX, e.offsetY);
      if (f) onFill(f);
    });
    canvas.addEventListener('mousemove', (e) => {
      const f = this.at(e.offsetX, e.offsetY);
      canvas.style.cursor = f ? 'pointer' : 'default';
      canvas.title = f ? `${f.side} ${f.quantity} at ${f.price}, ${clockOf(f.ts_event)}: click for its chain` : '';
    });
    canvas.addEventListener('keydown', (e) => {
      if (e.key === 'Enter' && this.marks.length) onFill(this.marks[this.marks.length - 1].fill);
    });
  }

  at(x, y) {
    let best = null, least = HIT * HIT;
    for (const m of this.marks) {
      const d = (m.x - x) ** 2 + (m.y - y) ** 2;
      if (d <= least) [best, least] = [m.fill, d];
    }
    return best;
  }

  size() {
    const ratio = window.devicePixelRatio || 1, w = this.canvas.clientWidth, h = this.canvas.clientHeight;
    if (this.canvas.width !== Math.round(w * ratio) || this.canvas.height !== Math.round(h * ratio)) {
      this.canvas.width = Math.round(w * ratio);
      this.canvas.height = Math.round(h * ratio);
    }
    this.g.setTransform(ratio, 0, 0, ratio, 0, 0);
    return [w, h];
  }

  say(w, h, words) {
    this.g.fillStyle = STYLE.text;
    this.g.textAlign = 'center';
    this.g.fillText(words, w / 2, h / 2);
  }

  /* bars oldest first; last: the newest trade's price or null; fills: of this symbol. */
  draw({ symbol, bars, last, fills, decimals }) {
    const [w, h] = this.size(), g = this.g;
    g.clearRect(0, 0, w, h);
    g.font = '10px system-ui, sans-serif';
    g.textBaseline = 'middle';
    this.marks = [];
    const shown = bars.slice(-MOST_BARS);
    this.canvas.setAttribute('aria-label', `${symbol ?? 'no symbol'}: ${shown.length} bars, last ${last ?? 'unknown'}`);
    if (shown.length < 2) {
      this.say(w, h, symbol ? `${shown.length} of 2 bars of ${symbol}` : 'no market data');
      return;
    }
    const from = shown[0].from, to = shown[shown.length - 1].to, wide = (to - from) / shown.length;
    const slots = Math.max(LEAST_SLOTS, shown.length + 2);
    const inTime = fills.filter((f) => f.ms >= from && f.ms <= to + wide * 2);
    const prices = [...shown.flatMap((b) => [b.high, b.low]), ...inTime.map((f) => Number(f.price))];
    if (last) prices.push(Number(last));
    let low = Math.min(...prices), high = Math.max(...prices);
    const air = (high - low || Math.abs(high) * 1e-4 || 1) * 0.08;
    low -= air;
    high += air;
    const x = (ms) => PAD.left + ((ms - from) / (wide * slots)) * (w - PAD.left - PAD.right);
    const y = (p) => PAD.top + ((high - p) / (high - low)) * (h - PAD.top - PAD.bottom);
    this.grid(w, h, low, high, x, y, shown, decimals, last ? y(Number(last)) : -99);
    const body = Math.max(1, Math.min(9, (x(from + wide) - x(from)) * 0.66));
    for (const b of shown) this.bar(b, x((b.from + b.to) / 2), y, body);
    if (last) this.lastPrice(last, w, y(Number(last)));
    for (const f of inTime) this.mark(f, x(f.ms), y(Number(f.price)));
  }

  grid(w, h, low, high, x, y, bars, decimals, lastAt) {
    const g = this.g, step = stepOf((high - low) / 6);
    const labels = [];
    for (let p = Math.ceil(low / step) * step; p < high; p += step) labels.push(p);
    const pad = aligned([(0).toFixed(decimals)]);
    g.fillStyle = STYLE.text;
    g.textAlign = 'right';
    for (const p of labels) {
      const at = Math.round(y(p)) + 0.5;
      g.fillStyle = STYLE.grid;
      g.fillRect(PAD.left, at, w - PAD.left - PAD.right, 1);
      g.fillStyle = STYLE.text;
      if (Math.abs(at - lastAt) > 13) g.fillText(pad(p.toFixed(decimals)), w - 8, at);
    }
    g.textAlign = 'center';
    let before = -Infinity;
    for (const b of bars) {
      const at = x(b.to);
      if (at - before < TIME_GAP || at > w - PAD.right - 20 || at < 40) continue;
      before = at;
      g.fillText(b.label, at, h - 8);
    }
  }

  bar(b, x, y, body) {
    const g = this.g, up = b.close >= b.open, top = y(Math.max(b.open, b.close)), bottom = y(Math.min(b.open, b.close));
    g.fillStyle = g.strokeStyle = up ? STYLE.up : STYLE.down;
    g.fillRect(Math.round(x), y(b.high), 1, Math.max(1, y(b.low) - y(b.high)));
    /* Rising bars are hollow, so that colour is not the only difference. */
    const left = Math.round(x - body / 2) + 0.5, tall = Math.max(1, bottom - top);
    if (up && body >= 3 && tall >= 2) {
      g.fillStyle = STYLE.ring;
      g.fillRect(left, top, Math.round(body), tall);
      g.strokeRect(left, Math.round(top) + 0.5, Math.round(body), Math.round(tall));
    } else {
      g.fillRect(left - 0.5, top, Math.round(body) + 1, tall);
    }
  }

  lastPrice(last, w, y) {
    const g = this.g, at = Math.round(y) + 0.5;
    g.strokeStyle = STYLE.last;
    g.setLineDash([3, 3]);
    g.beginPath();
    g.moveTo(PAD.left, at);
    g.lineTo(w - PAD.right + 4, at);
    g.stroke();
    g.setLineDash([]);
    g.fillStyle = STYLE.last;
    g.fillRect(w - PAD.right + 6, at - 8, PAD.right - 8, 16);
    g.fillStyle = STYLE.ring;
    g.textAlign = 'right';
    g.fillText(last, w - 8, at);
  }

  mark(f, x, y) {
    const g = this.g, buy = f.side === 'BUY', s = 5, dir = buy ? 1 : -1, tip = y + dir * 3;
    g.beginPath();
    g.moveTo(x, tip);
    g.lineTo(x - s, tip + dir * s * 1.8);
    g.lineTo(x + s, tip + dir * s * 1.8);
    g.closePath();
    g.lineWidth = 3;
    g.strokeStyle = STYLE.ring;
    g.stroke();
    g.lineWidth = 1;
    g.fillStyle = buy ? '#8be0bd' : '#ffaab0';
    g.fill();
    this.marks.push({ x, y: tip + dir * s, fill: f });
  }
}
