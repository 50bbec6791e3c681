import assert from 'node:assert/strict';
import { test } from 'node:test';
import { changesOf, initial, reduce } from '../../../assets/js/model/reducer.js';

const bot = (id, state = 'ready') => ({ id, name: id, state, status: { state, restarts_left: 5, restart_count: 0 } });
const node = (name, more = {}) => ({ name, path: `root/${name}`, kind: 'worker', state: 'ready', restarts: 0, history: [], children: [], ...more });
const at = (event, data, time = '2026-01-01T00:00:00Z') => ({ type: 'bots_event', event: { event, data, time } });
const loaded = reduce(initial, { type: 'bots', items: [bot('A'), bot('B')] });

test('a crash of one bot leaves the other untouched', () => {
  const next = reduce(loaded, at('bot_crashed', { bot_id: 'A', reason: 'boom', restarts: 1, restarts_left: 4, backoff_ms: 0 }));
  assert.equal(next.bots.byId.A.state, 'crashed');
  assert.equal(next.bots.byId.A.status.restarts_left, 4);
  assert.equal(next.bots.byId.B, loaded.bots.byId.B);
  assert.equal(next.facts.A.reason, 'boom');
});

test('the sixth crash shows quarantine with an empty budget', () => {
  const next = reduce(loaded, at('bot_quarantined', { bot_id: 'A', reason: 'boom', restarts: 6 }));
  assert.equal(next.bots.byId.A.state, 'quarantined');
  assert.equal(next.bots.byId.A.status.restarts_left, 0);
});

test('deleting and events of unknown bots are harmless', () => {
  const next = reduce(loaded, at('bot_deleted', { bot_id: 'A' }));
  assert.deepEqual(Object.keys(next.bots.byId), ['B']);
  assert.equal(reduce(next, at('bot_state_changed', { bot_id: 'nobody', state: 'ready' })), next);
});

test('an outage of the database is shown from its first sight until it is over', () => {
  assert.equal(initial.storageDown, null);
  const down = reduce(initial, { type: 'storage', down: true, at: 1000 });
  assert.equal(down.storageDown, 1000);
  assert.equal(reduce(down, { type: 'storage', down: true, at: 6000 }), down);
  assert.equal(reduce(down, { type: 'storage', down: false, at: 9000 }).storageDown, null);
});

test('unknown actions return the same state', () => {
  assert.equal(reduce(loaded, { type: 'nothing' }), loaded);
});

test('the pulse forgets what is older than ten minutes', () => {
  let s = reduce(loaded, at('bot_state_changed', { bot_id: 'A', state: 'processing' }, '2026-01-01T00:00:00Z'));
  s = reduce(s, at('bot_crashed', { bot_id: 'A', restarts: 1, restarts_left: 4 }, '2026-01-01T00:11:00Z'));
  assert.deepEqual(s.pulse.map((p) => p.kind), ['bad']);
});

test('a restart event writes history into the tree and touches one node', () => {
  const tree = node('root', { path: 'root', kind: 'supervisor', children: [node('history'), node('bots', { kind: 'supervisor', children: [node('A', { intensity: { max: 5, within_s: 60, left: 5 } }), node('B')] })] });
  const before = reduce(loaded, { type: 'tree', tree, at: 0 });
  const after = reduce(before, { type: 'tree_event', event: { event: 'bot_restarted', time: '2026-01-01T00:00:00Z', data: { bot_id: 'A', reason: 'boom', restarts: 1, restarts_left: 4, took_ms: 0.4, backoff_ms: 0 } } });
  const bots = after.tree.children[1].children;
  assert.equal(bots[0].history[0].reason, 'boom');
  assert.equal(bots[0].intensity.left, 4);
  assert.equal(bots[1], tree.children[1].children[1]);
  assert.equal(after.tree.children[0], tree.children[0]);
});

test('events of a conversation that is not open are ignored', () => {
  const event = { event: 'token', time: '2026-01-01T00:00:00Z', data: { turn_id: 't', message_id: 'm', kind: 'content', offset: 0, text: 'x' } };
  assert.equal(reduce(loaded, { type: 'chat_event', id: 'closed', event }), loaded);
});

test('the restart that ends fills the open entry of its crash', () => {
  const open = { at: '2026-01-01T00:00:00Z', reason: 'boom', took_ms: null, backoff_ms: 100 };
  const tree = node('root', { path: 'root', kind: 'supervisor', children: [node('bots', { kind: 'supervisor', children: [node('A', { history: [open] })] })] });
  const after = reduce({ ...loaded, tree }, { type: 'tree_event', event: { event: 'bot_restarted', time: '2026-01-01T00:00:00.100Z', data: { bot_id: 'A', reason: 'boom', restarts: 1, restarts_left: 4, took_ms: 100, backoff_ms: 100 } } });
  assert.deepEqual(after.tree.children[0].children[0].history.map((h) => [h.at, h.took_ms]), [['2026-01-01T00:00:00.000Z', 100]]);
});

const talk = (id, more = {}) => ({ id, bot_id: 'A', title: id, ...more });
const listed = (...items) => reduce(initial, { type: 'conversations', botId: 'A', items, since: 0 });

test('a conversation that is renamed elsewhere is renamed in its place, an open one by its own topic', () => {
  const told = { type: 'conversation_told', conversation: talk('x', { title: 'new', archived: true }) };
  const list = listed(talk('w'), talk('x'), talk('y'));
  assert.deepEqual(reduce(list, told).conversations.A, [talk('w'), told.conversation, talk('y')]);
  const open = reduce(list, { type: 'chat_open', botId: 'A', id: 'x' });
  assert.equal(reduce(open, told), open);
  assert.deepEqual(reduce(reduce(initial, { type: 'chat_open', botId: 'A', id: 'x' }), told).conversations.A, [told.conversation], 'one that is not listed yet');
});

test('a list that was asked for before an event does not undo it', () => {
  const before = listed(talk('x'), talk('y'));
  const since = changesOf(before, 'A');
  const late = { type: 'conversations', botId: 'A', items: [talk('x'), talk('y')], since };
  for (const event of [{ type: 'conversation_gone', botId: 'A', id: 'x' }, { type: 'conversation_told', conversation: talk('z') }]) {
    const after = reduce(before, event);
    assert.equal(reduce(after, late), after, event.type);
    assert.deepEqual(reduce(after, { ...late, items: [], since: changesOf(after, 'A') }).conversations.A, []);
  }
  const other = reduce(before, { type: 'conversation_gone', botId: 'B', id: 'x' });
  assert.equal(reduce(other, { ...late, items: [] }).conversations.A.length, 0, 'an event of another bot');
});
