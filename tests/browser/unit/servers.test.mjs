import assert from 'node:assert/strict';
import { test } from 'node:test';
import { allDown, gateOf, gateWords, held, lineWords, nextTry, pausedWords, placeWords, slotsRefused, stateWords, trouble, waitWords } from '../../../assets/js/model/servers.js';

const NOW = Date.parse('2026-01-01T00:00:00Z');
const at = (seconds) => new Date(NOW + seconds * 1000).toISOString();
const server = (more = {}) => ({ name: 'gpu-a', state: 'up', since: at(-28), breaker: { state: 'closed', retry_at: null, reason: null }, slots: { total: 4, busy: 0 }, queue: { depth: 0, limit: 512, eta_s: null }, ...more });

test('a server that serves says only that; another one says since when', () => {
  assert.equal(stateWords(server(), NOW), 'Up');
  assert.equal(stateWords(server({ state: 'down' }), NOW), 'Down, 28 s');
  assert.equal(stateWords(server({ state: 'draining', since: null }), NOW), 'Draining');
});

test('the gate is one sentence', () => {
  assert.equal(gateWords(server()), '4 slots free, no wait');
  assert.equal(gateWords(server({ slots: { total: 4, busy: 3 } })), '3 of 4 busy, no wait');
  assert.equal(gateWords(server({ slots: { total: 1, busy: 1 } })), '1 of 1 busy, the next one waits');
  assert.equal(gateWords(server({ slots: { total: 1, busy: 1 }, queue: { depth: 3, eta_s: 31 } })), '3 wait, a new one about 30 s');
  assert.equal(gateWords(server({ queue: { depth: 1, eta_s: null } })), '1 waits, time not known');
  assert.equal(gateWords(server({ state: 'down' })), 'no turns sent');
  assert.equal(gateWords(server({ state: 'draining' })), 'no new turns');
  assert.equal(gateWords(server({ state: 'draining', slots: { total: 4, busy: 1 } })), '1 of 4 busy, no new turns');
  assert.equal(gateWords({ name: 'bare', state: 'up' }), '0 slots free, no wait');
});

test('slots are a whole number from 1 to 1024, or left out', () => {
  assert.deepEqual(['', ' ', '1', ' 1024 '].map(slotsRefused), ['', '', '', '']);
  for (const wrong of ['0', '-1', '1.5', '1e2', '1025', 'x']) assert.equal(slotsRefused(wrong), 'A whole number from 1 to 1024.', wrong);
});

test('a breaker that is not closed tells its reason and when the next try is', () => {
  assert.equal(trouble(server(), NOW), null);
  const open = trouble(server({ breaker: { state: 'open', reason: 'connection refused', retry_at: at(13.2) } }), NOW);
  assert.deepEqual([open.tone, open.what, open.then], ['bad', 'Connection refused.', 'No turns are sent here. Next try in 14 s.']);
  assert.equal(trouble(server({ breaker: { state: 'half_open', reason: null, retry_at: null } }), NOW).tone, 'warn');
  assert.match(trouble(server({ state: 'draining', slots: { total: 2, busy: 1 } }), NOW).then, /1 turn still runs here/);
  assert.equal(trouble({ name: 'x', state: 'down' }, NOW).then, 'No turns are sent here.');
});

test('a model that is paused at a server that goes on says why, and when it is tried again', () => {
  const paused = (...paused_models) => pausedWords(server({ breaker: { state: 'closed', retry_at: null, reason: null, paused_models } }), NOW);
  assert.deepEqual(pausedWords(server(), NOW), []);
  assert.deepEqual(pausedWords({ name: 'bare', state: 'up' }, NOW), []);
  assert.deepEqual(paused({ model: 'llama3.2', reason: 'it answered 500.', retry_at: at(6.4) }, { model: 'b', reason: '', retry_at: at(-1) }), [
    'llama3.2 paused: it answered 500, tried again in 7 s.', 'b paused: it failed several times in a row, tried again now.',
  ]);
});

test('the next try is the first of all, and never in the past', () => {
  assert.equal(nextTry([], NOW), null);
  assert.equal(nextTry([server(), server({ breaker: { retry_at: at(9) } }), server({ breaker: { retry_at: at(4) } })], NOW), 4);
  assert.equal(nextTry([server({ breaker: { retry_at: at(-3) } })], NOW), 0);
});

test('a turn is held while no server answers, with the time left where it is told', () => {
  const down = [server({ state: 'down', breaker: { state: 'open', retry_at: at(5) } })];
  assert.equal(allDown([]), false);
  assert.equal(held({ position: 1 }, [server()], NOW), null);
  assert.deepEqual(held(null, down, NOW), { left: null, next: 5 });
  assert.deepEqual(held({ gives_up_at: at(21) }, down, NOW), { left: 21, next: 5 });
  assert.deepEqual(held({ gives_up_at: at(-1) }, [server()], NOW), { left: 0, next: null });
});

test('a waiting turn says where it stands and what it waits for', () => {
  assert.equal(placeWords(3, 'gpu-a'), '3rd in line at gpu-a');
  assert.equal(placeWords(1), '1st in line');
  assert.match(waitWords(3, server()), /^All 4 slots of gpu-a are busy\./);
  assert.match(waitWords(1, server({ slots: { total: 1, busy: 1 } })), /^The only slot of gpu-a is busy\./);
  assert.match(waitWords(undefined, null), /answer above/);
});

test('the gate of a turn is the one that is named, or the only one there is', () => {
  const [a, b] = [server(), server({ name: 'gpu-b' })];
  assert.equal(gateOf({ server: 'gpu-b' }, [a, b]), b);
  assert.equal(gateOf({ position: 1 }, [a, b]), null);
  assert.equal(gateOf({ position: 1 }, [a, { ...b, state: 'down' }]), a);
  assert.equal(gateOf({ server: 'gone' }, [a]), null);
});

test('an answer that waits in the middle says for what', () => {
  assert.deepEqual([{ position: 2, server: 'gpu-a' }, { position: 1, gives_up_at: 'soon' }, {}].map(lineWords), ['waits, 2nd in line at gpu-a', 'waits for a model server', 'waits in line']);
});
