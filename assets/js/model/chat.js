// One conversation as the page knows it: messages in order and the turns that run. Pure: (chat, input) → chat.
//
// Every reply is keyed by its turn ("turn:…"), because a turn is known before the id of its reply is.

import { NONE, merge, whole } from './offsets.js';
import { applyTool } from './tools.js';

export const emptyChat = (botId, conversationId) => ({
  botId, id: conversationId, conversation: null, loaded: false, order: [], messages: {}, turns: {}, hasMore: false,
  notice: null, gap: false, unread: 0, sending: [],
  gone: [], // ids that the path has turned away from
});

const isReply = (m) => m.sender === 'bot' && Boolean(m.turn_id);
export const keyOf = (m) => (isReply(m) ? `turn:${m.turn_id}` : m.id);

/** How far a turn is; it never goes back, whatever comes late. */
const STEPS = ['accepted', 'queued', 'generating'];
const TERMINAL = { turn_completed: 'completed', turn_stopped: 'stopped', turn_failed: 'failed', turn_interrupted: 'interrupted' };
export const isOver = (turn) => Object.values(TERMINAL).includes(turn?.state);

const putTurn = (chat, id, change) => ({ ...chat, turns: { ...chat.turns, [id]: { id, content: NONE, thinking: NONE, ...chat.turns[id], ...change } } });

/**
 * A turn with tools may store several messages of the bot. One is the reply and stands under the key of the turn, the others
 * stand under their ids before it.
 */
function putStep(chat, message, { atStart }) {
  const key = keyOf(message);
  const other = chat.messages[key];
  const reply = chat.turns[message.turn_id]?.messageId;
  const isReplyNow = message.id === reply || (other.id !== reply && !atStart);
  if (isReplyNow) {
    const order = chat.order.map((k) => (k === key ? other.id : k));
    return { ...chat, order: [...order, key], messages: { ...chat.messages, [other.id]: other, [key]: message } };
  }
  if (atStart) return { ...chat, order: [message.id, ...chat.order], messages: { ...chat.messages, [message.id]: message } };
  return putBefore(chat, key, message);
}

function putBefore(chat, key, message) {
  const order = chat.order.filter((k) => k !== message.id);
  order.splice(order.indexOf(key), 0, message.id);
  return { ...chat, order, messages: { ...chat.messages, [message.id]: message } };
}

function putMessage(chat, message, { atStart = false } = {}) {
  if (message.id in chat.messages) return { ...chat, messages: { ...chat.messages, [message.id]: message } };
  const key = keyOf(message);
  if (isReply(message) && message.id && chat.messages[key]?.id && chat.messages[key].id !== message.id) return putStep(chat, message, { atStart });
  const known = key in chat.messages;
  const old = chat.messages[key];
  // A rendered message is not replaced by the same message without its rendering.
  const kept = old && !message.html && old.html && old.content === message.content ? { ...message, html: old.html } : message;
  const order = known ? chat.order : atStart ? [key, ...chat.order] : [...chat.order, key];
  return { ...chat, order, messages: { ...chat.messages, [key]: kept } };
}

function placeholder(chat, turnId) {
  const key = `turn:${turnId}`;
  if (key in chat.messages) return chat;
  const message = { id: null, sender: 'bot', turn_id: turnId, bot_id: chat.botId, conversation_id: chat.id, content: '', state: 'pending', created_at: null };
  // The reply stands behind the message that asked for it, also when later messages are already queued.
  const asked = chat.order.findIndex((k) => chat.messages[k].turn_id === turnId);
  const order = [...chat.order];
  order.splice(asked < 0 ? order.length : asked + 1, 0, key);
  return { ...chat, order, messages: { ...chat.messages, [key]: message } };
}

/** `subscribed` with a snapshot, or a page of history read over HTTP. */
export function applySnapshot(chat, { conversation, messages, has_more: hasMore = false }, gap = false) {
  let next = { ...chat, conversation: conversation ?? chat.conversation, loaded: true, order: [], messages: {}, gap: false,
    hasMore, notice: gap ? 'gap' : chat.notice };
  for (const message of messages) next = putMessage(next, message);
  // A turn that the snapshot shows as finished cannot still be running here.
  for (const turn of Object.values(chat.turns)) {
    const reply = next.messages[`turn:${turn.id}`];
    if (reply && reply.state !== 'pending' && !isOver(turn)) {
      next = putTurn(next, turn.id, { state: reply.state === 'complete' ? 'completed' : 'ended', stopping: false });
    }
  }
  return next;
}

/** The text so far of running turns: `running` of a `subscribed` frame. */
export function applyRunning(chat, running = []) {
  let next = chat;
  for (const run of running) {
    next = placeholder(next, run.turn_id);
    const turn = next.turns[run.turn_id];
    const join = (known, part) => {
      if (!part) return known ?? NONE;
      return part.offset === 0 ? whole(part.text) : merge(known ?? NONE, part.offset, part.text);
    };
    const content = join(turn?.content, run.content);
    const thinking = join(turn?.thinking, run.thinking);
    // One that waits is told of too, with nothing written yet.
    const same = content.text === turn?.content.text && thinking.text === turn?.thinking.text;
    const begun = content.text || thinking.text ? { state: 'generating', queue: same ? turn.queue ?? null : null } : { state: turn?.state ?? 'accepted' };
    next = putTurn(next, run.turn_id, { messageId: run.message_id, content, thinking, ...begun });
    if (content.gap || thinking.gap) next = { ...next, gap: true };
  }
  return next;
}

/** Older messages, oldest first, put in front. */
export function applyOlder(chat, { items, hasMore }) {
  let next = { ...chat, hasMore };
  for (const message of [...items].reverse()) next = putMessage(next, message, { atStart: true });
  return next;
}

/** Whether anything of the answer is there. */
const written = (turn) => Boolean(turn?.content.text || turn?.thinking.text);

/** A turn as GET /api/turn/:id tells it. */
export function applyTurn(chat, turn) {
  const known = chat.turns[turn.id];
  if (isOver(known) && !isOver(turn)) return chat;
  // The end and the whole text come together, with the event or the next reading: until then what is written stays in view.
  if (isOver(turn) && chat.messages[`turn:${turn.id}`]?.state === 'pending') return chat;
  // One that has begun and waits for another slot before the first word is shown as what it is: in line.
  const state = turn.state === 'generating' && turn.queue && !written(known) ? 'queued' : turn.state;
  if (!isOver(turn) && STEPS.indexOf(state) < STEPS.indexOf(known?.state)) return chat;
  // The server whose line it is travels in events only.
  const queue = turn.queue ? { server: known?.queue?.server, ...turn.queue } : null;
  return putTurn(chat, turn.id, { full: turn, state, messageId: turn.reply_id, queue });
}

function token(chat, { turn_id: id, message_id: messageId, kind, offset, text }, at) {
  let next = placeholder(chat, id);
  const turn = next.turns[id] ?? { content: NONE, thinking: NONE };
  if (isOver(turn)) return chat;
  const before = turn[kind] ?? NONE;
  const after = merge(before, offset, text);
  if (after === before && turn.state === 'generating') return next;
  const change = { [kind]: after, messageId, state: 'generating', queue: null, firstAt: turn.firstAt ?? at };
  if (kind === 'thinking' && !turn.thinkAt) change.thinkAt = at;
  if (kind === 'content' && turn.thinking?.text && !turn.thoughtMs) change.thoughtMs = Math.max(0, new Date(at) - new Date(turn.thinkAt ?? at));
  next = putTurn(next, id, change);
  return after.gap ? { ...next, gap: true } : next;
}

function ended(chat, event) {
  const { turn, reply } = event.data;
  let next = placeholder(chat, turn.id);
  if (reply) next = putMessage(next, reply);
  else {
    const old = next.messages[`turn:${turn.id}`];
    const text = next.turns[turn.id]?.content.text;
    next = putMessage(next, { ...old, id: turn.reply_id, content: text ?? old.content, state: turn.state === 'completed' ? 'complete' : 'partial' });
  }
  const state = TERMINAL[event.event];
  return { ...putTurn(next, turn.id, { full: turn, state, queue: null, stopping: false, endedAt: event.time }), unread: next.unread + 1 };
}

/**
 * A new message continues the path at its parent. When the parent is not the last message shown, the path has turned
 * (the question is asked again, edited, or answered once more): what stood behind the parent belongs to another path and leaves the view.
 */
function turnPath(chat, message) {
  if (keyOf(message) in chat.messages || !chat.order.length) return chat;
  const cut = (order) => {
    const gone = chat.order.filter((k) => !order.includes(k)).map((k) => chat.messages[k].id);
    return { ...chat, order, messages: Object.fromEntries(order.map((k) => [k, chat.messages[k]])), gone: [...chat.gone, ...gone] };
  };
  if (message.parent_id === null) return message.siblings?.count > 1 ? { ...cut([]), hasMore: false } : chat;
  const at = chat.order.findIndex((k) => chat.messages[k].id === message.parent_id || (k.startsWith('turn:') && chat.turns[k.slice(5)]?.messageId === message.parent_id));
  // Below a message that is not loaded: what is shown has to be read anew.
  if (at < 0 && chat.hasMore) return { ...chat, gap: true };
  if (at < 0 || at === chat.order.length - 1) return chat;
  return cut(chat.order.slice(0, at + 1));
}

function received(chat, message) {
  // Calls of tools and their results belong to the reply that is being written; they turn no path.
  const reply = `turn:${message.turn_id}`;
  const step = message.sender === 'tool' || (message.sender === 'bot' && message.tool_calls && message.state !== 'pending' && chat.turns[message.turn_id]?.messageId !== message.id);
  if (step && message.turn_id && reply in chat.messages) return putBefore(chat, reply, message);
  const mine = message.sender === 'user' ? chat.sending.find((s) => s.content === message.content) : null;
  const next = mine ? { ...chat, sending: chat.sending.filter((s) => s !== mine) } : chat;
  return putMessage(turnPath(next, message), message);
}

/** One event of the conversation's topic. */
export function applyEvent(chat, event) {
  const { data, time } = event;
  if (data.redacted) return chat; // what it told was deleted since; another event says so
  switch (event.event) {
    case 'message_received': return received(chat, data.message);
    case 'turn_accepted':
      return putTurn(placeholder(chat, data.turn_id), data.turn_id, { state: 'accepted', acceptedAt: time });
    case 'turn_queued':
    case 'queue_moved': {
      const known = chat.turns[data.turn_id];
      // One that has begun is told that it stands in line again by a `turn_queued`, or where its server was lost.
      const late = known?.state === 'generating' && !known.queue && event.event === 'queue_moved' && !data.gives_up_at;
      if (isOver(known) || late) return chat;
      const before = known?.queue;
      const queue = { position: data.position ?? before?.position, eta_s: data.eta_s, server: data.server || before?.server, gives_up_at: data.gives_up_at };
      const state = known?.state === 'generating' && written(known) ? 'generating' : 'queued';
      return putTurn(placeholder(chat, data.turn_id), data.turn_id, { state, queue, queuedAt: known?.queuedAt ?? time });
    }
    case 'turn_started': {
      const known = chat.turns[data.turn_id];
      // It goes on where it waited between two rounds of tools, and begins anew where nothing had come.
      const startedAt = written(known) || known?.tools?.length ? known.startedAt : time;
      const full = known?.full && { ...known.full, server: data.server, model: data.model, timings: startedAt ? { ...known.full.timings, queued_ms: null } : known.full.timings };
      return putTurn(placeholder(chat, data.turn_id), data.turn_id, { state: 'generating', queue: null, startedAt, server: data.server, model: data.model, ...(full && { full }) });
    }
    case 'token': return token(chat, data, time);
    case 'tool_called':
    case 'tool_returned':
      if (isOver(chat.turns[data.turn_id])) return chat;
      return putTurn(placeholder(chat, data.turn_id), data.turn_id, { tools: applyTool(chat.turns[data.turn_id]?.tools, event) });
    case 'context_trimmed': return putTurn(placeholder(chat, data.turn_id), data.turn_id, { context: data });
    case 'turn_completed':
    case 'turn_stopped':
    case 'turn_failed':
    case 'turn_interrupted': return ended(chat, event);
    case 'history_cleared': return { ...chat, order: [], messages: {}, turns: {}, hasMore: false };
    default: return chat; // an event type of a later version
  }
}

/** A message on its way: shown at once, replaced by the stored one. */
export const sending = (chat, draft) => ({ ...chat, sending: [...chat.sending, draft], notice: null });
export const sendingFailed = (chat, key) => ({ ...chat, sending: chat.sending.filter((s) => s.key !== key) });

/** The acknowledgement of a send: `{turn, message, reply?}`. */
export function acknowledged(chat, key, { turn, message, reply }) {
  let next = sendingFailed(chat, key);
  // Whichever is faster, answer or event, turns the path. The events may already have turned it away from these messages.
  for (const m of [message, reply]) if (m && !next.gone.includes(m.id)) next = putMessage(turnPath(next, m), m);
  if (!turn) return next;
  next = placeholder(next, turn.id);
  const known = next.turns[turn.id];
  return known?.state ? putTurn(next, turn.id, { full: known.full ?? turn, messageId: turn.reply_id }) : applyTurn(next, turn);
}

/**
 * How long after its acceptance a turn wrote its first word, in ms or null: `first_token_ms` counts from the request to the
 * model server, which `queued_ms` is before.
 */
export const firstAfter = (timings) => (typeof timings?.first_token_ms === 'number' ? (timings.queued_ms ?? 0) + timings.first_token_ms : null);

/** Tokens a second from the first one on, or null: neither the line, nor the wait for the first token, nor the tools count. */
export function speedOf({ full, tools = [] }) {
  const [tokens, first] = [full?.usage?.completion_tokens, firstAfter(full?.timings)];
  const ms = first === null ? 0 : full.timings.total_ms - first - tools.reduce((sum, call) => sum + (call.took_ms ?? 0), 0);
  return tokens > 1 && ms > 0 ? (tokens - 1) / (ms / 1000) : null;
}

/**
 * When a turn was accepted, began and wrote its first word, in ms since 1970 or null. The server's own figures win over
 * what this page saw, because the page may have been opened in the middle.
 */
export function moments(turn) {
  const time = (iso) => (iso ? new Date(iso).getTime() : null);
  const accepted = time(turn.full?.created_at ?? turn.acceptedAt);
  const after = (ms) => (accepted !== null && typeof ms === 'number' ? accepted + ms : null);
  const first = after(firstAfter(turn.full?.timings)) ?? time(turn.firstAt);
  const begun = turn.state === 'queued' || turn.state === 'accepted' ? null : after(turn.full?.timings?.queued_ms) ?? time(turn.startedAt) ?? first;
  return { accepted, started: begun, first: begun === null ? null : first };
}

export const offsets = (chat) => Object.fromEntries(Object.values(chat.turns)
  .filter((t) => t.messageId && t.state === 'generating')
  .map((t) => [t.messageId, { content: t.content.bytes, thinking: t.thinking.bytes }]));

/** The turn that Stop would stop: the one being written, else the first that waits. */
export function runningTurn(chat) {
  const open = (chat?.order ?? []).filter((k) => k.startsWith('turn:')).map((k) => chat.turns[k.slice(5)]).filter((t) => t && !isOver(t) && t.state !== 'ended');
  return open.find((t) => t.state === 'generating') ?? open[0] ?? null;
}

/** The turns that wait for a slot or for a server, also between two rounds of tools. */
export const waitingTurns = (chat) => Object.values(chat?.turns ?? {}).filter((t) => t.state === 'queued' || t.state === 'accepted' || (t.state === 'generating' && t.queue));

/** How full the context of a turn is: the estimate of the event, replaced by the count that came with its end. Null while nobody has estimated it. */
export function contextUse(turn) {
  const use = isOver(turn) && turn.full?.context?.num_ctx ? turn.full.context : turn?.context ?? turn?.full?.context;
  return use?.used ? use : null;
}

/** The same, or where it is not known yet, what the turns before it told last. */
export function contextShown(chat, turn) {
  const turns = (chat?.order ?? []).filter((k) => k.startsWith('turn:')).map((k) => chat.turns[k.slice(5)]);
  const before = turns.slice(0, turns.findIndex((t) => t && t.id === turn?.id) + 1);
  return before.map(contextUse).findLast(Boolean) ?? contextUse(turn);
}

/** Whether a model is shown this message: slash commands, their answers and empty replies are not. */
const isSent = (m) => (m.sender === 'user' ? Boolean(m.turn_id) : m.sender === 'bot' ? m.state !== 'pending' && Boolean(m.content || m.tool_calls) : m.sender === 'tool');

/**
 * Where the last turn cut the history: `{before, trimmed}`, the key of the first message that was sent and what the turn says of
 * its context. Null where nothing was cut, or where the cut lies above what is loaded.
 */
export function cutOf(chat) {
  const contextOf = (key) => (key.startsWith('turn:') ? contextUse(chat.turns[key.slice(5)]) : null);
  const end = chat.order.findLastIndex((k) => contextOf(k)?.num_ctx);
  const trimmed = end < 0 ? null : contextOf(chat.order[end]);
  if (!trimmed?.trimmed_messages) return null;
  let left = trimmed.trimmed_messages - (chat.hasMore ? Math.max(0, (chat.conversation?.message_count ?? chat.order.length) - chat.order.length) : 0);
  if (left <= 0) return null;
  for (let i = 0; i < end; i += 1) {
    if (left === 0 && isSent(chat.messages[chat.order[i]])) return { before: chat.order[i], trimmed };
    if (isSent(chat.messages[chat.order[i]])) left -= 1;
  }
  return null;
}

/** The id of the last message shown, null where there is none. */
export function leafShown(chat) {
  const key = chat?.order.at(-1);
  return key ? chat.messages[key].id ?? chat.turns[key.slice(5)]?.messageId ?? null : null;
}

/** Whether a message was said in this conversation; a fork also shows what was said before it, elsewhere. */
export const isOwn = (chat, message) => message.conversation_id === chat.id;

/** Whether a message may be stored although sending it failed: nobody answered, or the service had a fault. */
export const mayBeStored = (error) => !(error.status >= 400 && error.status < 500);
