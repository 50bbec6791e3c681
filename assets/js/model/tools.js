// Calls of tools in a turn: from its events while it runs, from the stored messages afterwards. Pure.
//
// A call is `{id, name, arguments, result, error, took_ms, calledAt, running}`; arguments and result are whatever the model and
// the tool wrote, and are shown as text only.

const text = (value) => (value === undefined || value === null ? null : typeof value === 'string' ? value : JSON.stringify(value));

/** `tool_calls` of a message: as deia keeps them, or as a model wrote them. */
export function callsOf(message) {
  const calls = Array.isArray(message.tool_calls) ? message.tool_calls : [];
  return calls.map((call, i) => {
    const { name = 'unnamed', arguments: given } = call.function ?? {};
    return { id: call.id ?? `${message.id}:${i}`, name, arguments: text(given), result: null, error: null, took_ms: null, running: false };
  });
}

/** `tool_called` and `tool_returned` put into the calls of a turn. */
export function applyTool(calls = [], { event, data, time }) {
  const { call_id: id } = data;
  const known = calls.some((c) => c.id === id);
  if (event === 'tool_called') {
    return known ? calls : [...calls, { id, name: data.name, arguments: text(data.arguments), result: null, error: null, took_ms: null, calledAt: time, running: true }];
  }
  const end = { result: text(data.result), error: text(data.error), took_ms: data.took_ms ?? null, running: false };
  return known ? calls.map((c) => (c.id === id ? { ...c, ...end } : c)) : [...calls, { id, name: data.name ?? 'unnamed', arguments: null, ...end }];
}

/** Puts the result that a stored message holds to its call. */
function answer(calls, message) {
  const { call_id: id, name = 'unnamed', error } = message.metadata?.tool ?? {};
  const end = { result: message.content, error: text(error) };
  if (!calls.some((c) => c.id === id)) return [...calls, { id: id ?? message.id, name, arguments: null, took_ms: null, running: false, ...end }];
  return calls.map((c) => (c.id === id ? { ...c, ...end } : c));
}

/** Turn id → its calls. What is stored wins where it is more than what was seen happening. */
export function callsByTurn(chat) {
  const stored = new Map();
  for (const key of chat.order) {
    const m = chat.messages[key];
    if (!m.turn_id || (!m.tool_calls && m.sender !== 'tool')) continue;
    const before = stored.get(m.turn_id) ?? [];
    stored.set(m.turn_id, m.sender === 'tool' ? answer(before, m) : [...before, ...callsOf(m)]);
  }
  const out = new Map(stored);
  for (const turn of Object.values(chat.turns)) {
    if (turn.tools && turn.tools.length >= (stored.get(turn.id)?.length ?? 0)) out.set(turn.id, turn.tools);
  }
  return out;
}

/** One of several messages that a turn wrote on its way to the reply: it is shown in the reply's tool blocks. */
export const isStep = (key, message) => Boolean(message.turn_id) && !key.startsWith('turn:') && (message.sender === 'tool' || message.sender === 'bot');

/** JSON laid out for reading; anything else as it is. */
export function laidOut(value) {
  if (value === null) return '';
  try {
    return JSON.stringify(JSON.parse(value), null, 2);
  } catch {
    return value;
  }
}

/** The first line of a result, for the one line of a block. */
export function brief(call) {
  const line = (call.error ?? call.result ?? '').trim().split('\n')[0];
  return line || (call.error === null ? 'empty' : 'failed');
}
