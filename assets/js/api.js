// The one file that fetches. Every call resolves to the answer or throws a Problem (RFC 9457 as an Error).

export class Problem extends Error {
  constructor(status, body, retryAfter) {
    super(body.detail ?? body.title ?? `The server answered ${status}.`);
    this.name = 'Problem';
    this.status = status;
    this.code = body.code ?? 'unknown';
    this.title = body.title ?? '';
    this.errors = body.errors ?? [];
    this.turn = body.turn ?? null;
    this.requestId = body.request_id ?? null;
    this.retryAfter = body.retry_after_s ?? retryAfter ?? null;
  }
}

const OFFLINE = { code: 'no_answer', detail: 'The server does not answer.' };

const answerOf = (text) => {
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return { detail: text.slice(0, 200) };
  }
};

/** The response as soon as its head is there. */
async function open(method, path, { body, query, headers, signal } = {}) {
  const url = new URL(path, location.origin);
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== undefined && value !== null && value !== '') url.searchParams.set(name, value);
  }
  let response;
  try {
    response = await fetch(url, {
      method,
      signal,
      credentials: 'same-origin',
      headers: { accept: 'application/json', ...(body !== undefined && { 'content-type': 'application/json' }), ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Problem(0, OFFLINE);
  }
  if (!response.ok) throw new Problem(response.status, answerOf(await response.text()) ?? {}, Number(response.headers.get('retry-after')) || null);
  return response;
}

const request = async (method, path, options) => answerOf(await (await open(method, path, options)).text());

const get = (path, query, signal) => request('GET', path, { query, signal });
const post = (path, body, extra) => request('POST', path, { body, ...extra });
const id = encodeURIComponent;

/** All bots, over all pages. */
export async function listBots() {
  const items = [];
  let after;
  do {
    const page = await get('/api/bots', { limit: 200, after });
    items.push(...page.items);
    after = page.next;
  } while (after);
  return items;
}

export const getBot = (bot) => get(`/api/bot/${id(bot)}`);
export const launchBot = (body) => post('/api/bot/launch', body);
export const startBot = (bot) => post(`/api/bot/${id(bot)}/start`);
export const stopBot = (bot) => post(`/api/bot/${id(bot)}/stop`);
export const restartBot = (bot) => post(`/api/bot/${id(bot)}/restart`);
export const killBot = (bot, reason) => post(`/api/bot/${id(bot)}/kill`, { how: 'kill', reason });
export const patchBot = (bot, body) => request('PATCH', `/api/bot/${id(bot)}`, { body });
export const deleteBot = (bot, purge) => request('DELETE', `/api/bot/${id(bot)}`, { query: { purge: purge || undefined } });

export const history = (bot, query) => get(`/api/chat/${id(bot)}`, { limit: 50, render: 'html', ...query });
export const conversations = async (bot) => (await get(`/api/chat/${id(bot)}/conversations`)).items;
export const newConversation = (bot, body = {}) => post(`/api/chat/${id(bot)}/conversations`, body);
export const patchConversation = (bot, conversation, body) => request('PATCH', `/api/chat/${id(bot)}/conversations/${id(conversation)}`, { body });
export const deleteConversation = (bot, conversation) => request('DELETE', `/api/chat/${id(bot)}/conversations/${id(conversation)}`);

/** What the database says of itself: `{status, detail, since}`. Down is an answer like any other. */
export async function storage() {
  const report = await get('/health/db').catch((problem) => {
    if (problem.status !== 503) throw problem;
    return { checks: { db: { status: 'down' } } };
  });
  return report.checks.db;
}

/** Stores a message and returns `{turn, message}` at once; the answer comes over the socket. */
export const send = (body, key) => post('/api/chat/send', body, { query: { wait: 'false' }, headers: { 'idempotency-key': key } });
/** One message with the ids of its siblings and the newest message of its branch, as a conversation shows them. */
export const message = (bot, msg, conversation) => get(`/api/chat/${id(bot)}/${id(msg)}`, { conversation_id: conversation });
/** One more answer to the same message: `{turn, message}`; the answer comes over the socket. */
export const regenerate = (turn, key) => post(`/api/turn/${id(turn)}/regenerate`, undefined, { headers: { 'idempotency-key': key } });
export const getTurn = (turn) => get(`/api/turn/${id(turn)}`);
export const stopTurn = (turn) => post(`/api/turn/${id(turn)}/stop`);

/** Slash commands as `{name, usage, about}`, whatever small differences the document has. */
export async function commands() {
  const answer = await get('/api/commands');
  return (answer.items ?? answer.commands ?? []).map((c) => ({
    name: c.name.replace(/^\//, ''), usage: c.usage ?? `/${c.name}`, about: c.description ?? c.summary ?? c.help ?? '',
  }));
}

export const models = async () => (await get('/api/models')).items;
export const servers = async () => (await get('/api/servers')).items;
export const addServer = (body) => post('/api/servers', body);
export const removeServer = (server) => request('DELETE', `/api/server/${id(server)}`);
export const probeServer = (server) => post(`/api/server/${id(server)}/probe`);
export const drainServer = (server) => post(`/api/server/${id(server)}/drain`);
export const resumeServer = (server) => post(`/api/server/${id(server)}/resume`);
/** Answers when the model is in memory, which may take minutes. */
export const preloadModel = (model, server) => post('/api/models/preload', { model, server });
export const unloadModel = (model, server) => post('/api/models/unload', { model, server });
export const deleteModel = (model, server, force) => post('/api/models/delete', { model, server }, { query: { force: force || undefined } });
export const pulls = async () => (await get('/api/models/pulls')).items;
/** Begins a pull, or goes on with one. It is not watched here: `pulls()` tells of every pull, whoever began it. */
export async function pullModel(model, server) {
  const response = await open('POST', '/api/models/pull', { body: { model, server }, headers: { accept: 'text/event-stream, application/json' } });
  await response.body.cancel();
}
export const cancelPull = (pull) => request('DELETE', `/api/models/pull/${id(pull)}`);

export const icons = async () => (await open('GET', '/assets/icons.svg', { headers: { accept: '*/*' } })).text();
export const tree = () => get('/api/tree');
