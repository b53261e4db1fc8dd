/*
 * Figures as the engines print them. Money and quantities are decimal text with at most nine places: they are compared
 * and added as BigInt at 1e-9, never as floating point. Only lengths and positions on the screen are numbers.
 */
const UNIT = 1000000000n;

/* JSON with every number as its own text. */
export function parseExact(text) {
  return JSON.parse(text.replace(/"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g,
    (token) => (token[0] === '"' ? token : `"${token}"`)));
}

/* Text to BigInt at 1e-9; null when it is no such decimal. */
export function dec(text) {
  const m = /^(-?)(\d+)(?:\.(\d{1,9}))?$/.exec(text ?? '');
  if (!m) return null;
  const v = BigInt(m[2]) * UNIT + BigInt((m[3] ?? '').padEnd(9, '0'));
  return m[1] ? -v : v;
}

/* BigInt at 1e-9 to text without trailing zeros. */
export function text(v) {
  const a = v < 0n ? -v : v;
  const part = (a % UNIT).toString().padStart(9, '0').replace(/0+$/, '');
  return `${v < 0n ? '-' : ''}${a / UNIT}${part ? `.${part}` : ''}`;
}

/* A true minus sign and groups of three. */
export function pretty(t) {
  if (t === null || t === undefined) return '–';
  const m = /^(-?)(\d+)(\..*)?$/.exec(t);
  if (!m) return t;
  return `${m[1] ? '−' : ''}${m[2].replace(/\B(?=(\d{3})+(?!\d))/g, ',')}${m[3] ?? ''}`;
}

/* Rounded for reading, half up; the title shows all of it. */
export function round(t, places) {
  const v = dec(t);
  if (v === null) return t ?? '–';
  const step = 10n ** BigInt(9 - places), a = v < 0n ? -v : v;
  const r = ((a + step / 2n) / step) * step;
  const part = (r % UNIT).toString().padStart(9, '0').slice(0, places);
  return pretty(`${v < 0n && r > 0n ? '-' : ''}${r / UNIT}${places ? `.${part}` : ''}`);
}

export const places = (t) => (t?.includes('.') ? t.length - t.indexOf('.') - 1 : 0);

/* All with as many places as the one that has most. */
export function aligned(list) {
  const most = Math.max(0, ...list.map(places));
  return (t) => {
    const have = places(t);
    return have === most ? t : `${t}${have ? '' : '.'}${'0'.repeat(most - have)}`;
  };
}

/* RFC 3339 with nanoseconds, to BigInt nanoseconds. */
export function stamp(t) {
  const m = /^(.{19})(?:\.(\d{1,9}))?Z$/.exec(t ?? '');
  if (!m) return null;
  return BigInt(Date.parse(`${m[1]}Z`)) * 1000000n + BigInt((m[2] ?? '').padEnd(9, '0'));
}

/* A span of BigInt nanoseconds in the unit that suits it. */
export function span(ns) {
  const a = Number(ns < 0n ? -ns : ns), sign = ns < 0n ? '−' : '+';
  if (a < 1e6) return `${sign}${(a / 1e3).toFixed(0)} µs`;
  if (a < 1e9) return `${sign}${(a / 1e6).toFixed(a < 1e7 ? 2 : 1)} ms`;
  return `${sign}${(a / 1e9).toFixed(3)} s`;
}

export const clockOf = (t) => (t ? t.slice(11, 23) : '–');
