import assert from 'node:assert/strict';
import { test } from 'node:test';
import { acknowledged, applyEvent, applyOlder, applyRunning, applySnapshot, applyTurn, contextShown, cutOf, emptyChat, firstAfter, isOwn, leafShown, mayBeStored, moments, offsets, runningTurn, sending, speedOf, waitingTurns } from '../../../assets/js/model/chat.js';

const message = (id, sender, more = {}) => ({ id, sender, bot_id: 'B', conversation_id: 'C', content: id, state: 'complete', created_at: '2026-01-01T00:00:00Z', turn_id: null, ...more });
const event = (name, data) => ({ event: name, data, time: '2026-01-01T00:00:01Z' });
const token = (turn, offset, text, kind = 'content') => event('token', { turn_id: turn, message_id: `r-${turn}`, kind, offset, text });
const asked = (chat, turn) => applyEvent(applyEvent(chat, event('message_received', { message: message(`m-${turn}`, 'user', { turn_id: turn }) })), event('turn_accepted', { turn_id: turn }));
const start = () => applySnapshot(emptyChat('B', 'C'), { messages: [] });

test('a turn streams from its acknowledgement to its reply', () => {
  let chat = asked(start(), 't1');
  assert.deepEqual(chat.order, ['m-t1', 'turn:t1']);
  chat = applyEvent(chat, event('turn_started', { turn_id: 't1', server: 's' }));
  chat = applyEvent(chat, token('t1', 0, 'Hel'));
  chat = applyEvent(chat, token('t1', 3, 'lo'));
  assert.equal(chat.turns.t1.content.text, 'Hello');
  assert.deepEqual(offsets(chat), { 'r-t1': { content: 5, thinking: 0 } });
  chat = applyEvent(chat, event('turn_completed', { turn: { id: 't1', state: 'completed', reply_id: 'r-t1' }, reply: message('r-t1', 'bot', { turn_id: 't1', content: 'Hello' }) }));
  assert.equal(chat.messages['turn:t1'].state, 'complete');
  assert.equal(chat.order.length, 2);
  assert.equal(runningTurn(chat), null);
});

test('while a turn waits the context is what the one before it used, until it has a number of its own', () => {
  const use = (used, trimmed_messages = 0) => ({ num_ctx: 1024, used, trimmed_messages, trimmed_tokens: 0 });
  const shown = (chat, id) => contextShown(chat, chat.turns[id]);
  const queued = (chat, id) => applyTurn(asked(chat, id), { id, state: 'queued', message_id: `m-${id}`, reply_id: `r-${id}`, context: use(0), queue: null });
  let chat = queued(start(), 't1');
  assert.equal(shown(chat, 't1'), null);
  chat = applyEvent(chat, event('turn_completed', { turn: { id: 't1', state: 'completed', reply_id: 'r-t1', context: use(800, 2) }, reply: message('r-t1', 'bot', { turn_id: 't1' }) }));
  assert.deepEqual(shown(chat, 't1'), use(800, 2));
  chat = queued(queued(chat, 't2'), 't3');
  for (const id of ['t2', 't3']) assert.deepEqual(shown(chat, id), use(800, 2));
  chat = applyEvent(chat, event('context_trimmed', { turn_id: 't2', ...use(700, 3) }));
  for (const id of ['t2', 't3']) assert.equal(shown(chat, id).used, 700);
  assert.equal(shown(chat, 't1').used, 800);
  assert.equal(contextShown(chat, null), null);
});

test('events whose texts were deleted change nothing', () => {
  const chat = asked(start(), 't1');
  for (const name of ['message_received', 'turn_completed', 'turn_interrupted']) assert.equal(applyEvent(chat, event(name, { redacted: true })), chat);
});

test('a late token does not wake a finished turn', () => {
  let chat = applyEvent(asked(start(), 't1'), event('turn_stopped', { turn: { id: 't1', state: 'stopped', reply_id: 'r' }, reply: message('r', 'bot', { turn_id: 't1', content: 'ab', state: 'partial' }) }));
  chat = applyEvent(chat, token('t1', 2, 'c'));
  assert.equal(chat.turns.t1.state, 'stopped');
  assert.equal(chat.messages['turn:t1'].content, 'ab');
});

test('a turn that is told to be over before its event came keeps what is written in view', () => {
  const streamed = applyEvent(asked(start(), 't1'), token('t1', 0, 'kept'));
  const stopped = { id: 't1', state: 'stopped', reply_id: 'r-t1' };
  let chat = applyTurn(streamed, stopped);
  assert.equal(chat.turns.t1.state, 'generating');
  assert.equal(chat.turns.t1.content.text, 'kept');
  chat = applyEvent(chat, event('turn_stopped', { turn: stopped, reply: message('r-t1', 'bot', { turn_id: 't1', content: 'kept all', state: 'partial' }) }));
  assert.equal(chat.turns.t1.state, 'stopped');
  assert.equal(chat.messages['turn:t1'].content, 'kept all');
  assert.equal(applyTurn(chat, { ...stopped, timings: {} }).turns.t1.full.timings !== undefined, true, 'what is said after it counts');
});

test('a terminal event without the reply keeps what was streamed', () => {
  let chat = applyEvent(asked(start(), 't1'), token('t1', 0, 'kept'));
  chat = applyEvent(chat, event('turn_interrupted', { turn: { id: 't1', state: 'interrupted', reply_id: 'r-t1' } }));
  assert.equal(chat.messages['turn:t1'].content, 'kept');
  assert.equal(chat.messages['turn:t1'].state, 'partial');
});

test('the reply stands behind its own question when another is queued', () => {
  let chat = start();
  chat = applyEvent(chat, event('message_received', { message: message('m-a', 'user', { turn_id: 'a' }) }));
  chat = applyEvent(chat, event('message_received', { message: message('m-b', 'user', { turn_id: 'b' }) }));
  chat = applyEvent(chat, token('a', 0, 'x'));
  chat = applyEvent(chat, event('turn_queued', { turn_id: 'b', position: 1, eta_s: 3 }));
  assert.deepEqual(chat.order, ['m-a', 'turn:a', 'm-b', 'turn:b']);
  assert.equal(runningTurn(chat).id, 'a');
});

test('snapshot plus running text plus tail is the whole text', () => {
  const reply = message('r-t1', 'bot', { turn_id: 't1', content: '', state: 'pending' });
  let chat = applySnapshot(emptyChat('B', 'C'), { messages: [message('m', 'user', { turn_id: 't1' }), reply] });
  chat = applyRunning(chat, [{ turn_id: 't1', message_id: 'r-t1', content: { offset: 0, text: 'one ' }, thinking: { offset: 0, text: '' } }]);
  chat = applyEvent(chat, token('t1', 2, 'e two'));
  assert.equal(chat.turns.t1.content.text, 'one two');
});

test('after a resume the missing tail is joined at its offset', () => {
  let chat = applyEvent(asked(start(), 't1'), token('t1', 0, 'one '));
  chat = applyRunning(chat, [{ turn_id: 't1', message_id: 'r-t1', content: { offset: 4, text: 'two' }, thinking: { offset: 0, text: '' } }]);
  assert.equal(chat.turns.t1.content.text, 'one two');
  assert.equal(chat.gap, false);
});

test('a gap asks for the snapshot', () => {
  const chat = applyEvent(asked(start(), 't1'), token('t1', 9, 'late'));
  assert.equal(chat.gap, true);
});

test('a snapshot ends a turn that finished while nobody listened', () => {
  let chat = applyEvent(asked(start(), 't1'), token('t1', 0, 'par'));
  chat = applySnapshot(chat, { messages: [message('m-t1', 'user', { turn_id: 't1' }), message('r-t1', 'bot', { turn_id: 't1', content: 'partial', state: 'partial' })] }, true);
  assert.equal(runningTurn(chat), null);
  assert.equal(chat.notice, 'gap');
});

test('a message on its way is shown once, whichever of answer and event comes first', () => {
  const stored = message('m', 'user', { content: 'hi', turn_id: 't' });
  const answer = { turn: { id: 't', state: 'accepted', reply_id: 'r' }, message: stored };
  const sent = sending(start(), { key: 'k', content: 'hi' });
  const eventFirst = acknowledged(applyEvent(sent, event('message_received', { message: stored })), 'k', answer);
  const answerFirst = applyEvent(acknowledged(sent, 'k', answer), event('message_received', { message: stored }));
  for (const chat of [eventFirst, answerFirst]) {
    assert.deepEqual(chat.order, ['m', 'turn:t']);
    assert.deepEqual(chat.sending, []);
  }
});

test('older messages go in front, none twice', () => {
  let chat = applySnapshot(emptyChat('B', 'C'), { messages: [message('c', 'user')], has_more: true });
  chat = applyOlder(chat, { items: [message('a', 'user'), message('b', 'user'), message('c', 'user')], hasMore: false });
  assert.deepEqual(chat.order, ['a', 'b', 'c']);
  assert.equal(chat.hasMore, false);
});

test('thinking and content have offsets of their own', () => {
  let chat = applyEvent(asked(start(), 't1'), token('t1', 0, 'hm', 'thinking'));
  chat = applyEvent(chat, token('t1', 0, 'yes'));
  assert.equal(chat.turns.t1.thinking.text, 'hm');
  assert.equal(chat.turns.t1.content.text, 'yes');
});

test('unknown events change nothing', () => {
  const chat = start();
  assert.equal(applyEvent(chat, event('from_the_future', {})), chat);
});

test('asking again turns the path at the parent of the question', () => {
  const stored = [message('q1', 'user', { parent_id: null, turn_id: 'a' }), message('r1', 'bot', { turn_id: 'a', parent_id: 'q1' }), message('q2', 'user', { parent_id: 'r1', turn_id: 'b' }), message('r2', 'bot', { turn_id: 'b', parent_id: 'q2' })];
  let chat = applySnapshot(emptyChat('B', 'C'), { messages: stored });
  chat = applyEvent(chat, event('message_received', { message: message('q3', 'user', { parent_id: 'r1', turn_id: 'c', siblings: { index: 2, count: 2 } }) }));
  assert.deepEqual(chat.order, ['q1', 'turn:a', 'q3']);
  chat = applyEvent(chat, event('message_received', { message: message('q4', 'user', { parent_id: null, turn_id: 'd', siblings: { index: 2, count: 2 } }) }));
  assert.deepEqual(chat.order, ['q4']);
});

test('an edited question turns the path, whichever of answer and event comes first', () => {
  const edited = message('q2', 'user', { parent_id: null, turn_id: 'b', siblings: { index: 2, count: 2 } });
  const shown = applySnapshot(emptyChat('B', 'C'), { messages: [message('q1', 'user', { parent_id: null, turn_id: 'a' }), message('r1', 'bot', { turn_id: 'a', parent_id: 'q1' })] });
  const answer = { turn: { id: 'b', state: 'accepted', reply_id: 'r2' }, message: edited };
  const eventFirst = acknowledged(applyEvent(shown, event('message_received', { message: edited })), 'k', answer);
  const answerFirst = applyEvent(acknowledged(shown, 'k', answer), event('message_received', { message: edited }));
  for (const chat of [eventFirst, answerFirst]) assert.deepEqual(chat.order, ['q2', 'turn:b']);
});

test('a message queued behind a running answer does not turn the path', () => {
  let chat = applyEvent(asked(start(), 't1'), token('t1', 0, 'x'));
  chat = applyEvent(chat, event('message_received', { message: message('next', 'user', { parent_id: 'r-t1', turn_id: 't2' }) }));
  assert.deepEqual(chat.order, ['m-t1', 'turn:t1', 'next']);
});

test('a late acknowledgement does not bring back what the path has left', () => {
  const command = message('retry', 'user', { parent_id: 'r1' });
  let chat = applySnapshot(emptyChat('B', 'C'), { messages: [message('q1', 'user', { parent_id: null, turn_id: 'a' }), message('r1', 'bot', { turn_id: 'a', parent_id: 'q1' })] });
  chat = applyEvent(chat, event('message_received', { message: command }));
  chat = applyEvent(chat, event('message_received', { message: message('q2', 'user', { parent_id: null, turn_id: 'b', siblings: { index: 2, count: 2 } }) }));
  chat = acknowledged(chat, 'k', { turn: null, message: command, reply: null });
  assert.deepEqual(chat.order, ['q2']);
});

test('only a refusal is sure that nothing is stored', () => {
  assert.equal(mayBeStored({ status: 429 }), false);
  for (const status of [0, 500, 503, 504]) assert.equal(mayBeStored({ status }), true);
  assert.equal(mayBeStored(new TypeError('lost')), true);
});

test('one more answer takes the place of the one shown and of what stood behind it', () => {
  let chat = applySnapshot(emptyChat('B', 'C'), { messages: [message('q', 'user', { turn_id: 'a' }), message('r', 'bot', { parent_id: 'q', turn_id: 'a' }), message('s', 'user', { parent_id: 'r', turn_id: 'b' })] });
  const again = message('r2', 'bot', { parent_id: 'q', turn_id: 'c', state: 'pending', content: '', siblings: { index: 2, count: 2 } });
  chat = applyEvent(chat, event('message_received', { message: again }));
  assert.deepEqual(chat.order, ['q', 'turn:c']);
  assert.equal(leafShown(chat), 'r2');
  chat = applyEvent(chat, event('turn_accepted', { turn_id: 'c' }));
  chat = applyEvent(chat, event('turn_completed', { turn: { id: 'c', state: 'completed', reply_id: 'r2' }, reply: { ...again, state: 'complete', content: 'two' } }));
  assert.deepEqual(chat.order, ['q', 'turn:c']);
  assert.equal(chat.messages['turn:c'].content, 'two');
});

test('a message below one that is not loaded asks for a fresh look', () => {
  const page = { messages: [message('x', 'user', { turn_id: 'a' })] };
  const edited = event('message_received', { message: message('y', 'user', { parent_id: 'long ago', turn_id: 'b' }) });
  assert.equal(applyEvent(applySnapshot(emptyChat('B', 'C'), { ...page, has_more: true }), edited).gap, true);
  assert.equal(applyEvent(applySnapshot(emptyChat('B', 'C'), { ...page, has_more: false }), edited).gap, false);
});

test('what a fork shows of its origin is not its own, and nothing shown has no end', () => {
  const chat = emptyChat('B', 'C');
  assert.equal(isOwn(chat, { conversation_id: 'C' }), true);
  assert.equal(isOwn(chat, { conversation_id: 'D' }), false);
  assert.equal(leafShown(chat), null);
});

test('a place in the line moves, keeps its server and is not taken back by a late answer', () => {
  let chat = applyEvent(asked(start(), 't1'), event('turn_queued', { turn_id: 't1', position: 3, eta_s: 31, server: 'gpu-a' }));
  chat = applyEvent(chat, event('queue_moved', { turn_id: 't1', position: 2, eta_s: 20 }));
  assert.deepEqual({ ...chat.turns.t1.queue }, { position: 2, eta_s: 20, server: 'gpu-a', gives_up_at: undefined });
  chat = applyTurn(chat, { id: 't1', state: 'queued', reply_id: 'r', queue: { position: 1, eta_s: 5, gives_up_at: 'soon' } });
  assert.deepEqual(chat.turns.t1.queue, { server: 'gpu-a', position: 1, eta_s: 5, gives_up_at: 'soon' });
  chat = applyEvent(chat, event('turn_started', { turn_id: 't1' }));
  assert.equal(applyTurn(chat, { id: 't1', state: 'queued', reply_id: 'r', queue: null }), chat);
});

test('a turn that began and lost its server before the first word stands in line again, until it begins anew', () => {
  let chat = applyEvent(asked(start(), 't1'), event('turn_started', { turn_id: 't1', server: 'gpu-a' }));
  assert.equal(applyEvent(chat, event('queue_moved', { turn_id: 't1', position: 1 })), chat, 'a late word of the line it has left');
  chat = applyEvent(chat, event('turn_queued', { turn_id: 't1', position: 1, gives_up_at: 'soon' }));
  assert.equal(chat.turns.t1.state, 'queued');
  assert.equal(chat.turns.t1.queue.gives_up_at, 'soon');
  const told = { id: 't1', state: 'generating', server: null, reply_id: 'r', queue: { position: 1, gives_up_at: 'soon' }, timings: { queued_ms: 0 } };
  chat = applyTurn(chat, told);
  assert.equal(chat.turns.t1.state, 'queued');
  assert.equal(applyEvent(chat, event('queue_moved', { turn_id: 't1', position: 2, server: 'gpu-a' })).turns.t1.queue.gives_up_at, undefined, 'a server is back, and it is in its line');
  chat = applyEvent(chat, event('turn_started', { turn_id: 't1', server: 'gpu-b' }));
  assert.deepEqual([chat.turns.t1.state, chat.turns.t1.queue, chat.turns.t1.full.server], ['generating', null, 'gpu-b']);
  assert.equal(applyTurn(chat, told), chat, 'a late answer');
  // After a reload.
  assert.equal(applyTurn(asked(start(), 't1'), told).turns.t1.state, 'queued');
  // What is written stays in view.
  chat = applyEvent(applyEvent(chat, token('t1', 0, 'Hel')), event('turn_queued', { turn_id: 't1', position: 1, gives_up_at: 'soon' }));
  assert.deepEqual([chat.turns.t1.state, chat.turns.t1.content.text, chat.turns.t1.queue.gives_up_at], ['generating', 'Hel', 'soon']);
});

test('a turn that was turned away by a server that lives stands in its line again, and says so', () => {
  let chat = applyEvent(asked(start(), 't1'), event('turn_started', { turn_id: 't1', server: 'gpu-a' }));
  chat = applyEvent(chat, event('turn_queued', { turn_id: 't1', position: 1, eta_s: 3, server: 'gpu-a' }));
  assert.deepEqual([chat.turns.t1.state, chat.turns.t1.queue.position, chat.turns.t1.queue.server], ['queued', 1, 'gpu-a']);
  assert.equal(applyEvent(chat, event('queue_moved', { turn_id: 't1', position: 1, eta_s: 1, server: 'gpu-a' })).turns.t1.queue.eta_s, 1);
  chat = applyEvent(chat, event('turn_started', { turn_id: 't1', server: 'gpu-a' }));
  assert.deepEqual([chat.turns.t1.state, chat.turns.t1.queue], ['generating', null]);
  // After a reload.
  const told = { id: 't1', state: 'generating', server: null, reply_id: 'r', queue: { position: 1, eta_s: 3, server: 'gpu-a' } };
  assert.equal(applyTurn(asked(start(), 't1'), told).turns.t1.state, 'queued');
});

test('a turn that waits between two rounds of tools moves in the line, and goes on from its first start', () => {
  const later = (name, data, second) => ({ ...event(name, data), time: `2026-01-01T00:00:0${second}Z` });
  let chat = applyEvent(asked(start(), 't1'), later('turn_started', { turn_id: 't1', server: 'gpu-a' }, 2));
  chat = applyEvent(applyEvent(chat, token('t1', 0, 'Hel')), event('turn_queued', { turn_id: 't1', position: 2, server: 'gpu-a' }));
  chat = applyEvent(chat, event('queue_moved', { turn_id: 't1', position: 1 }));
  assert.deepEqual([chat.turns.t1.state, chat.turns.t1.queue.position, chat.turns.t1.queue.server], ['generating', 1, 'gpu-a']);
  assert.equal(waitingTurns(chat).length, 1);
  const run = (text) => applyRunning(chat, [{ turn_id: 't1', message_id: 'r-t1', content: { offset: 0, text } }]).turns.t1.queue;
  assert.deepEqual([run('Hel')?.position, run('Hello')], [1, null], 'after a lost connection');
  chat = applyEvent(chat, later('turn_started', { turn_id: 't1', server: 'gpu-b' }, 9));
  assert.deepEqual([chat.turns.t1.queue, chat.turns.t1.startedAt, chat.turns.t1.server], [null, '2026-01-01T00:00:02Z', 'gpu-b']);
  assert.equal(waitingTurns(chat).length, 0);
  // Opened in the middle, only the server knows when it began.
  const full = { id: 't1', state: 'generating', reply_id: 'r-t1', created_at: '2026-01-01T00:00:00Z', queue: null, timings: { queued_ms: 3000 } };
  chat = applyTurn(applyEvent(asked(start(), 't1'), token('t1', 0, 'Hel')), full);
  const { accepted, started } = moments(applyEvent(chat, later('turn_started', { turn_id: 't1', server: 'gpu-b' }, 9)).turns.t1);
  assert.equal(started - accepted, 3000);
});

test('the first word came so long after the request, and the request so long after the acceptance', () => {
  const timings = { queued_ms: 4000, first_token_ms: 250, total_ms: 6000 };
  assert.equal(firstAfter(timings), 4250);
  assert.deepEqual([firstAfter({ queued_ms: 4000 }), firstAfter(undefined)], [null, null]);
  const { accepted, started, first } = moments({ state: 'completed', full: { created_at: '2026-01-01T00:00:00Z', timings } });
  assert.deepEqual([started - accepted, first - accepted], [4000, 4250]);
});

test('the speed of an answer counts neither the line nor the first token nor the tools', () => {
  const turn = (timings, tools) => ({ full: { usage: { completion_tokens: 101 }, timings }, tools });
  const timings = { queued_ms: 38_000, first_token_ms: 500, total_ms: 40_500 };
  assert.equal(speedOf(turn(timings)), 50);
  assert.equal(speedOf(turn({ ...timings, total_ms: 43_500 }, [{ took_ms: 3000 }, { took_ms: null }])), 50);
  assert.deepEqual([speedOf(turn({ queued_ms: 38_000, total_ms: 40_000 })), speedOf({ full: { timings } }), speedOf({})], [null, null, null]);
});

test('the cut stands before the first message that was sent; what a model is never shown does not count', () => {
  const stored = [message('a', 'user', { turn_id: 'x' }), message('b', 'bot', { turn_id: 'x' }), message('/c', 'user'), message('d', 'system'), message('e', 'user', { turn_id: 'y' }), message('f', 'bot', { turn_id: 'y' }), message('g', 'user', { turn_id: 'z' }), message('h', 'bot', { turn_id: 'z' })];
  const trim = (n, more) => cutOf(applyEvent(applySnapshot(emptyChat('B', 'C'), { messages: stored, ...more }), event('context_trimmed', { turn_id: 'z', num_ctx: 256, used: 200, trimmed_messages: n, trimmed_tokens: 9 })));
  assert.equal(trim(0), null);
  assert.equal(trim(1).before, 'turn:x');
  assert.equal(trim(2).before, 'e');
  assert.equal(trim(4).before, 'g');
  assert.equal(trim(99), null);
  // Ten more lie above what is loaded.
  const more = { has_more: true, conversation: { message_count: stored.length + 10 } };
  assert.equal(trim(10, more), null);
  assert.equal(trim(12, more).before, 'e');
});

test('a turn that waits is not shown as being written after a reload', () => {
  const waits = { turn_id: 't1', message_id: 'r-t1', content: { offset: 0, text: '' }, thinking: { offset: 0, text: '' } };
  let chat = applyRunning(applySnapshot(emptyChat('B', 'C'), { messages: [message('m', 'user', { turn_id: 't1' })] }), [waits]);
  assert.equal(chat.turns.t1.state, 'accepted');
  chat = applyTurn(chat, { id: 't1', state: 'queued', reply_id: 'r-t1', queue: { position: 2, eta_s: null } });
  assert.equal(applyRunning(chat, [waits]).turns.t1.queue.position, 2);
});
