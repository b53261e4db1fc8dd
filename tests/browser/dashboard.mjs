/*
 * Drives the dashboard in Chromium. `node dashboard.mjs session|token|picture` with KEEL_NODE (where node_modules is),
 * KEEL_CHROMIUM, KEEL_PAGE (address) and, for session, KEEL_RUN (folder of the engines' pid files). Every wait is for a
 * condition. Exit 0: all of it held.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const { chromium } = createRequire(`${process.env.KEEL_NODE}/`)('playwright-core');
/* Longer than a breaker of a peer stays open. */
const LONG = 150000, address = new URL(process.env.KEEL_PAGE);
const errors = [], foreign = [];

const ARGS = ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update',
  '--disable-sync', '--disable-default-apps', '--disable-dev-shm-usage', '--mute-audio'];

async function open() {
  const browser = await chromium.launch({ executablePath: process.env.KEEL_CHROMIUM, args: ARGS, timeout: 60000 });
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
  page.setDefaultTimeout(LONG);
  const own = (url) => new URL(url).host === address.host;
  page.on('request', (r) => own(r.url()) || foreign.push(r.url()));
  page.on('websocket', (w) => own(w.url()) || foreign.push(w.url()));
  page.on('console', (m) => m.type() === 'error' && errors.push(m.text()));
  page.on('pageerror', (e) => errors.push(`thrown: ${e.stack}`));
  await page.goto(address.href);
  return { browser, page };
}

const attribute = (page, selector, name, wanted) => page.waitForFunction(
  ([s, n, w]) => w.includes(document.querySelector(s)?.dataset[n]), [selector, name, [wanted].flat()], { timeout: LONG });
const said = (page, selector, pattern) => page.waitForFunction(
  ([s, p]) => new RegExp(p).test(document.querySelector(s)?.textContent ?? ''), [selector, pattern.source], { timeout: LONG });
const step = (words) => console.log(`${(performance.now() / 1000).toFixed(1)} s  ${words}`);

const green = (page) => page.waitForFunction(
  () => document.querySelectorAll('#tiles:not(.stale) li[data-status=healthy]').length === 9, null, { timeout: LONG });

async function exact(page) {
  await attribute(page, '#money', 'state', 'equal');
  await attribute(page, '#fills', 'state', 'equal');
}

async function fitsOneScreen(page) {
  const [w, h] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.scrollHeight]);
  assert.ok(w <= 1280 && h <= 800, `the page is ${w} x ${h}`);
  const cut = await page.evaluate(() => [...document.querySelectorAll('#tiles li > *, #tiles .top > *, #tiles .low > *')]
    .filter((e) => e.getBoundingClientRect().right > e.closest('li').getBoundingClientRect().right + 1).map((e) => e.textContent));
  assert.deepEqual(cut, [], 'tiles whose words are cut');
}

/* Presses until the ticket is answered so: on a slow machine one may miss its 48 ms, and then it was not sent. */
async function place(page, pattern) {
  for (let i = 0; i < 40; i++) {
    await page.locator('#place').click();
    await page.waitForFunction(() => !document.querySelector('#place').disabled);
    if (pattern.test(await page.locator('#placed').textContent())) return;
  }
  assert.fail(`no ticket was answered by ${pattern}: ${await page.locator('#placed').textContent()}`);
}

async function rest(page) {
  const best = await page.locator('#ladder .bid td').first().textContent();
  const price = Math.floor(Number(best.replaceAll(',', '')) * 0.9);
  await page.locator('#order [name=quantity]').fill('0.001');
  await page.locator('#order [name=price]').fill(String(price));
  await page.locator('#order [name=time_in_force]').selectOption('GTC');
  await place(page, /ACCEPTED/);
}

async function placeAndCancel(page) {
  await rest(page);
  await page.locator('[data-view=open]').click();
  const row = page.locator('#orders tr[data-order^=web-][data-state=ACCEPTED]').first();
  const id = await row.getAttribute('data-order');
  await row.locator('button:has-text("cancel")').click();
  await page.locator('[data-view=canceled]').click();
  await attribute(page, `#orders tr[data-order="${id}"]`, 'state', 'CANCELED');
  await page.locator('[data-view=all]').click();
}

/* Runs every command of the open chain, and finds every figure beside it in what it prints. */
async function checkChain(page) {
  await page.waitForFunction(() => document.querySelectorAll('#steps li[data-step]').length >= 7 &&
    document.querySelector('#steps li[data-step=ledger]:not(.none)'), null, { timeout: LONG });
  const trace = await page.locator('#trace').getAttribute('data-traces');
  assert.match(trace, /^[0-9a-f]{32}$/, 'one trace id');
  const steps = await page.locator('#steps li[data-step]').evaluateAll((all) => all.map((li) => ({
    name: li.dataset.step, none: li.classList.contains('none'), curl: li.querySelector('.curl code')?.textContent,
    figures: [...li.querySelectorAll('[data-figure]')].map((e) => e.dataset.figure), stamp: li.querySelector('time')?.dateTime })));
  assert.deepEqual([...new Set(steps.map((s) => s.name))], ['quote', 'feature', 'prediction', 'risk', 'order', 'fill', 'ledger']);
  const answers = new Map();
  for (const s of steps.filter((x) => !x.none)) {
    if (!answers.has(s.curl)) answers.set(s.curl, execFileSync('sh', ['-c', s.curl], { encoding: 'utf8' }));
    assert.ok(s.figures.length > 0 && s.stamp, `${s.name} has figures and a stamp`);
    for (const f of s.figures) assert.ok(answers.get(s.curl).includes(f), `${s.name}: ${f} is not in the answer of ${s.curl}`);
  }
  const ledger = [...answers.values()].find((a) => a.includes('"postings"'));
  assert.ok(ledger.includes(trace), 'the ledger entry is of the same trace');
  assert.ok(steps.find((s) => s.name === 'risk').figures.length >= 4, 'limits with their headroom');
  return steps;
}

/* An order that is still filling may change between the page's question and the command's: then look again. */
async function again(look, close) {
  for (let left = 4; ; left--) {
    try {
      await look();
      return await close();
    } catch (e) {
      if (left === 0) throw e;
      await close();
    }
  }
}

/* A mark on the canvas is found by its colour, and clicked. */
async function clickMark(page) {
  const find = () => {
    const c = document.querySelector('#plot'), g = c.getContext('2d'), { data } = g.getImageData(0, 0, c.width, c.height);
    const marks = [[0x8b, 0xe0, 0xbd], [0xff, 0xaa, 0xb0]];
    for (let i = data.length - 4; i >= 0; i -= 4)
      if (marks.some((m) => m.every((v, k) => v === data[i + k]))) return [(i / 4) % c.width, Math.floor(i / 4 / c.width)];
    return null;
  };
  for (let i = 0; i < 200; i++) { /* the picture moves on while it is looked at */
    const at = await page.waitForFunction(find, null, { timeout: LONG });
    const [x, y] = await at.jsonValue();
    await page.locator('#plot').click({ position: { x, y } });
    if (await page.locator('#chain[open]').count()) return;
  }
  assert.fail('no mark could be clicked');
}

async function setTrading(page, button, state, reason) {
  await page.locator(button).click();
  await page.locator('#reason').fill(reason);
  await page.locator('#confirmyes').click();
  await attribute(page, '#trading', 'state', state);
}

const pid = (engine) => Number(readFileSync(`${process.env.KEEL_RUN}/${engine}.pid`, 'utf8'));

async function session() {
  const { browser, page } = await open();
  await said(page, '#mode', /^SIMULATED seed 7 \/ PAPER$/);
  await green(page);
  await exact(page);
  await said(page, '#link', /live/);
  await page.waitForFunction(() => document.querySelectorAll('#ladder .bid td.n').length === 20 && !/–/.test(document.querySelector('#last').textContent));
  await fitsOneScreen(page);
  step('nine green tiles, both identities exact');
  for (const view of ['denied', 'partial', 'canceled', 'filled']) await said(page, `[data-view=${view}]`, /[1-9]/);
  for (const [view, rows] of [['denied', '[data-state=DENIED]'], ['partial', '[data-part=yes]'], ['canceled', '[data-state=CANCELED]']]) {
    await page.locator(`[data-view=${view}]`).click();
    await page.locator(`#orders tr${rows}`).first().waitFor();
  }
  await page.locator('[data-view=all]').click();
  step('a denial, a partial fill and a cancel');
  await again(async () => {
    await clickMark(page);
    const steps = await checkChain(page);
    assert.equal(steps.filter((s) => s.name === 'fill' && !s.none).length, 1, 'the chain of one fill');
  }, () => page.locator('#chainclose').click());
  await page.locator('[data-view=filled]').click();
  await again(async () => {
    await page.locator('#orders tbody tr button:has-text("chain")').first().click();
    await checkChain(page);
  }, () => page.keyboard.press('Escape'));
  await page.locator('[data-view=all]').click();
  step('a fill and an order with their chains; the commands show the same figures');
  assert.deepEqual(errors.filter((e) => !/ 503 /.test(e)), [], 'errors'); /* a busy engine may refuse to read */
  await placeAndCancel(page);
  step('an order placed and canceled');
  await setTrading(page, '#halt', 'HALTED', 'test of the switch');
  await said(page, '#tradingwhy', /test of the switch/);
  await place(page, /risk_denied: TRADING_HALTED/);
  await setTrading(page, '#resume', 'ACTIVE', 'test is over');
  step('halted and resumed');
  const before = pid('portfolio');
  process.kill(before, 'SIGKILL');
  await attribute(page, '#tiles li[data-engine=portfolio]', 'status', ['away', 'unhealthy', 'restarted']);
  step('portfolio killed: its tile is red');
  await green(page);
  assert.notEqual(pid('portfolio'), before);
  await exact(page);
  step('portfolio is back, both identities exact');
  process.kill(pid('websocket'), 'SIGKILL');
  await said(page, '#link', /connection lost/);
  await attribute(page, '#tiles li[data-engine=websocket]', 'status', 'restarted');
  await said(page, '#link', /live/);
  await green(page);
  await exact(page);
  step('websocket killed: the page said so and came back');
  await browser.close();
  assert.deepEqual(foreign, [], 'requests to elsewhere');
  assert.deepEqual(errors.filter((e) => !/^Failed to load resource|^WebSocket connection to/.test(e)), []);
}

async function tokens() {
  const { browser, page } = await open();
  await page.locator('#login[open]').waitFor();
  await page.locator('#secret').fill('not-the-token');
  await page.locator('#login button').click();
  await said(page, '#loginerror', /not one of/);
  await page.locator('#secret').fill(process.env.KEEL_TOKEN);
  await page.locator('#login button').click();
  await said(page, '#link', /live/);
  await attribute(page, '#tiles li[data-engine=websocket]', 'status', ['healthy', 'degraded']);
  await attribute(page, '#tiles li[data-engine=portfolio]', 'status', 'away');
  await attribute(page, '#money', 'state', 'away');
  await page.reload();
  await said(page, '#link', /live/);
  assert.equal(await page.locator('#login[open]').count(), 0, 'a reload asks again');
  const kept = await page.evaluate(() => [localStorage.length, document.cookie]);
  assert.deepEqual(kept, [0, ''], 'the token is in the session only');
  await page.locator('#token').click();
  await page.locator('#login[open]').waitFor();
  await browser.close();
  assert.deepEqual(foreign, [], 'requests to elsewhere');
  assert.deepEqual(errors.filter((e) => !/^Failed to load resource/.test(e)), []);
}

async function picture() {
  const { browser, page } = await open();
  await green(page);
  await exact(page);
  for (const view of ['denied', 'partial', 'canceled', 'filled']) await said(page, `[data-view=${view}]`, /[1-9]/);
  await page.waitForFunction((n) => Number(document.querySelector('#plot').getAttribute('aria-label').match(/(\d+) bars/)?.[1]) >= n, 100, { timeout: 300000 });
  const isExact = () => page.evaluate(() => ['money', 'fills'].every((id) => document.getElementById(id).dataset.state === 'equal'));
  let good = false;
  for (let i = 0; i < 50 && !good; i++) { /* a fill may come just then */
    await exact(page);
    await page.screenshot({ path: process.env.KEEL_PICTURE });
    good = await isExact();
  }
  assert.ok(good, 'the figures never agreed for as long as a picture takes');
  await browser.close();
}

await { session, token: tokens, picture }[process.argv[2]]();
