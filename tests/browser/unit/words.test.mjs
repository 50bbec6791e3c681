import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { ago, bytes, calmEta, duration, eta, int, ordinal, span } from '../../../assets/js/format.js';
import { matches, parse, shownState } from '../../../assets/js/model/bot-filter.js';

test('numbers and times read as the design says', () => {
  assert.equal(int(1204), '1,204');
  assert.deepEqual([4.1, 62, 620, 9400, 120_000].map(duration), ['4.1 ms', '62 ms', '0.62 s', '9.4 s', '2 min']);
  assert.equal(span(6 * 86_400 + 4 * 3600 + 120), '6 d 4 h');
  assert.equal(bytes(4.9e9), '4.9 GB');
  assert.deepEqual([1, 2, 3, 11, 21, 112].map(ordinal), ['1st', '2nd', '3rd', '11th', '21st', '112th']);
  assert.deepEqual([3.2, 33, 200].map(eta), ['about 3 s', 'about 35 s', 'about 3 min']);
  assert.equal(ago(Date.now() - 8000), '8 s ago');
});

test('an ETA never grows by less than a fifth', () => {
  assert.equal(calmEta(10, 11), 10);
  assert.equal(calmEta(10, 13), 13);
  assert.equal(calmEta(10, 4), 4);
});

test('the filter takes words, key:value and comparisons', () => {
  const bot = { id: 'BOT-1', name: 'Triage', state: 'ready', config: { model: 'qwen3:14b' }, status: { restart_count: 2 } };
  for (const q of ['tri', 'model:qwen3', 'restarts>1', 'state:ready tri', 'BOT-1', '']) assert.ok(matches(bot, parse(q)), q);
  for (const q of ['model:llama', 'restarts>2', 'nobody', 'state:idle']) assert.ok(!matches(bot, parse(q)), q);
});

test('every permitted pair of text and ground has enough contrast in both themes', () => {
  const css = readFileSync(new URL('../../../assets/css/tokens.css', import.meta.url), 'utf8');
  const block = (selector) => Object.fromEntries([...css.slice(css.indexOf(selector)).split('}')[0].matchAll(/--([\w-]+):\s*(#[0-9a-f]{6})/gi)].map((m) => [m[1], m[2]]));
  const light = (hex) => [1, 3, 5].map((i) => Number.parseInt(hex.slice(i, i + 2), 16) / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  const grounds = ['bg', 'surface', 'surface-2', 'surface-3', 'overlay'];
  const pairs = [];
  for (const t of ['text', 'text-2', 'text-3']) for (const g of grounds) pairs.push([t, g, 4.5]);
  for (const s of ['live', 'ok', 'warn', 'bad', 'quar']) {
    for (const g of [...grounds, `${s}-bg`]) pairs.push([s, g, 4.5]);
    pairs.push(['text', `${s}-bg`, 4.5], ['text-2', `${s}-bg`, 4.5]);
  }
  for (const c of ['text', 'c-key', 'c-str', 'c-num', 'c-com', 'c-type']) pairs.push([c, 'code', 4.5]);
  pairs.push(['on-primary', 'primary', 4.5], ['on-danger', 'danger', 4.5], ['on-mark', 'mark', 4.5]);
  for (const g of grounds.slice(0, 3)) pairs.push(['field', g, 3]);
  for (const selector of [':root, [data-theme="dark"]', '[data-theme="light"] {']) {
    const tokens = block(selector);
    for (const [f, b, least] of pairs) assert.ok(ratio(tokens[f], tokens[b]) >= least, `${f} on ${b} in ${selector}`);
  }
});

test('a bot whose messages only wait is shown as queued, whatever else it is as itself', () => {
  const shown = (state, queue_depth) => shownState({ state, status: { queue_depth } });
  assert.deepEqual([shown('ready', 0), shown('ready', 1), shown('idle', 2), shown('processing', 2), shown('crashed', 1)], ['ready', 'queued', 'queued', 'processing', 'crashed']);
  assert.equal(shownState({ state: 'ready' }), 'ready');
});
