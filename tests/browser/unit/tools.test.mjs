import assert from 'node:assert/strict';
import { test } from 'node:test';
import { applyEvent, applyOlder, applySnapshot, emptyChat, leafShown } from '../../../assets/js/model/chat.js';
import { applyTool, brief, callsByTurn, callsOf, isStep, laidOut } from '../../../assets/js/model/tools.js';

const message = (id, sender, more = {}) => ({ id, sender, bot_id: 'B', conversation_id: 'C', content: id, state: 'complete', turn_id: 't', created_at: '2026-01-01T00:00:00Z', metadata: {}, ...more });
const event = (name, data) => ({ event: name, data, time: '2026-01-01T00:00:01Z' });
const called = event('tool_called', { turn_id: 't', call_id: 'c1', name: 'current_time', arguments: { zone: 'UTC' } });
const returned = event('tool_returned', { turn_id: 't', call_id: 'c1', result: '12:00', took_ms: 4 });
const calls = [{ id: 'c1', function: { name: 'current_time', arguments: { zone: 'UTC' } } }];
const load = (messages) => applySnapshot(emptyChat('B', 'C'), { messages });

test('a call runs until its result or its error is there, and is told once', () => {
  let found = applyTool(undefined, called);
  assert.deepEqual([found[0].running, found[0].arguments], [true, '{"zone":"UTC"}']);
  assert.equal(applyTool(found, called), found);
  found = applyTool(found, returned);
  assert.deepEqual([found.length, found[0].running, found[0].result, found[0].took_ms], [1, false, '12:00', 4]);
  assert.equal(brief(applyTool(found, event('tool_returned', { call_id: 'c1', result: null, error: 'no such zone' }))[0]), 'no such zone');
  assert.equal(applyTool([], returned)[0].result, '12:00');
});

test('calls are read as they are kept and as models write them, and garbage is no call', () => {
  assert.deepEqual(callsOf(message('r', 'bot', { tool_calls: calls })).map((c) => [c.id, c.name, c.arguments]), [['c1', 'current_time', '{"zone":"UTC"}']]);
  assert.deepEqual(callsOf(message('r', 'bot', { tool_calls: [{ function: { name: 'n', arguments: '{"a":1}' } }] })).map((c) => [c.id, c.name, c.arguments]), [['r:0', 'n', '{"a":1}']]);
  assert.deepEqual(callsOf(message('r', 'bot', { tool_calls: [{}] })).map((c) => [c.id, c.name]), [['r:0', 'unnamed']]);
  for (const none of [null, undefined, 'text', {}]) assert.deepEqual(callsOf(message('r', 'bot', { tool_calls: none })), []);
});

test('events of a conversation put the calls into the turn, and the end of the turn keeps them', () => {
  let chat = applyEvent(load([]), event('message_received', { message: message('q', 'user') }));
  chat = applyEvent(applyEvent(chat, event('turn_accepted', { turn_id: 't' })), called);
  assert.equal(callsByTurn(chat).get('t')[0].running, true);
  chat = applyEvent(chat, returned);
  chat = applyEvent(chat, event('turn_completed', { turn: { id: 't', state: 'completed', reply_id: 'r' }, reply: message('r', 'bot') }));
  assert.equal(callsByTurn(chat).get('t')[0].result, '12:00');
  assert.equal(applyEvent(chat, called), chat);
});

test('stored rounds of a turn are one reply with its calls, wherever it is read from', () => {
  const stored = [message('q', 'user'), message('s', 'bot', { content: '', tool_calls: calls }), message('x', 'tool', { content: '12:00', metadata: { tool: { call_id: 'c1', name: 'current_time' } } }), message('r', 'bot')];
  for (const chat of [load(stored), applyOlder(load([]), { items: stored, hasMore: false })]) {
    assert.deepEqual(chat.order, ['q', 's', 'x', 'turn:t']);
    assert.equal(chat.messages['turn:t'].id, 'r');
    assert.deepEqual(chat.order.filter((k) => isStep(k, chat.messages[k])), ['s', 'x']);
    assert.deepEqual(callsByTurn(chat).get('t').map((c) => [c.name, c.result, c.error]), [['current_time', '12:00', null]]);
    assert.equal(leafShown(chat), 'r');
  }
});

test('a result that arrives while the answer is written turns no path', () => {
  let chat = applyEvent(load([message('q', 'user')]), event('turn_started', { turn_id: 't' }));
  chat = applyEvent(chat, event('message_received', { message: message('s', 'bot', { parent_id: 'q', tool_calls: calls }) }));
  chat = applyEvent(chat, event('message_received', { message: message('x', 'tool', { parent_id: 's', content: '12:00', metadata: { tool: { call_id: 'c1', name: 'current_time' } } }) }));
  assert.deepEqual(chat.order, ['q', 's', 'x', 'turn:t']);
  assert.equal(callsByTurn(chat).get('t')[0].result, '12:00');
});

test('a result without its call is shown all the same', () => {
  const [call] = callsByTurn(load([message('x', 'tool', { content: 'a\nb', metadata: { tool: { call_id: 'c9', name: 'search' } } })])).get('t');
  assert.deepEqual([call.name, brief(call)], ['search', 'a']);
});

test('arguments are laid out where they are JSON and left alone where they are not', () => {
  assert.equal(laidOut('{"a":1}'), '{\n  "a": 1\n}');
  assert.equal(laidOut('<b>no JSON'), '<b>no JSON');
  assert.equal(laidOut(null), '');
});
