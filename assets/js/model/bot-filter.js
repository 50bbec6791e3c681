// The filter of the Bots page: free words and key:value, key>n, key<n. Pure.

import { look } from '../states.js';

const NUMBERS = {
  restarts: (b) => b.status?.restart_count ?? 0, left: (b) => b.status?.restarts_left ?? 0, queue: (b) => b.status?.queue_depth ?? 0,
  errors: (b) => b.status?.error_count ?? 0, tokens: (b) => tokens(b),
};
const WORDS = { model: (b) => b.config?.model ?? '', state: (b) => b.state, id: (b) => b.id, name: (b) => b.name ?? '' };

export const tokens = (b) => (b.status?.tokens?.prompt ?? 0) + (b.status?.tokens?.completion ?? 0);

/** Text → tests; a word that is no known key is searched in name, id and model. */
export function parse(text) {
  return text.trim().split(/\s+/).filter(Boolean).map((word) => {
    const [, key, op, value] = /^([a-z]+)([:<>=])(.+)$/i.exec(word) ?? [];
    const name = key?.toLowerCase();
    if (name in NUMBERS && op !== ':' && value !== '' && !Number.isNaN(Number(value))) return { word, test: (b) => compare(NUMBERS[name](b), op, Number(value)) };
    if (name in NUMBERS && op === ':' && !Number.isNaN(Number(value))) return { word, test: (b) => NUMBERS[name](b) === Number(value) };
    if (name in WORDS) return { word, test: (b) => WORDS[name](b).toLowerCase().includes(value.toLowerCase()) };
    const q = word.toLowerCase();
    return { word, test: (b) => [b.name, b.id, b.config?.model].some((t) => t?.toLowerCase().includes(q)) };
  });
}

const compare = (a, op, b) => (op === '>' ? a > b : op === '<' ? a < b : a === b);

export const matches = (bot, tests) => tests.every(({ test }) => test(bot));

const SORTS = {
  name: (a, b) => (a.name || a.id).localeCompare(b.name || b.id, 'en', { numeric: true }),
  state: (a, b, { rank }) => rank(a.state) - rank(b.state),
  model: (a, b) => (a.config?.model ?? '').localeCompare(b.config?.model ?? ''),
  restarts: (a, b) => NUMBERS.restarts(a) - NUMBERS.restarts(b),
  queue: (a, b) => NUMBERS.queue(a) - NUMBERS.queue(b),
  tokens: (a, b) => tokens(a) - tokens(b),
  uptime: (a, b) => (a.status?.uptime_seconds ?? 0) - (b.status?.uptime_seconds ?? 0),
};

/** `sort` is a key of the table, with "-" in front for descending. */
export function sorted(bots, sort, tools) {
  const key = sort.replace(/^-/, '');
  const by = SORTS[key] ?? SORTS.name;
  const sign = sort.startsWith('-') ? -1 : 1;
  return [...bots].sort((a, b) => sign * by(a, b, tools) || SORTS.name(a, b));
}

const CALM = ['ready', 'idle', 'active'];

/** The state of a bot as a person sees it: one whose messages only wait is not ready. */
export const shownState = ({ state, status }) => (CALM.includes(state) && status?.queue_depth ? 'queued' : state);

/** What a bot does now, in a few words, and the tone if it is not calm. */
export function now(bot, fact, at) {
  const { state } = look(bot.state);
  const status = bot.status ?? {};
  const waiting = status.queue_depth ? `, ${status.queue_depth} waiting` : '';
  switch (state) {
    case 'processing': return { text: `answering${waiting}`, tone: '' };
    case 'quarantined': return { text: fact?.reason ? `after ${status.restart_count ?? 'too many'} crashes: ${fact.reason}` : 'crashed too often', tone: 'quar' };
    case 'crashed': return { text: fact?.reason ?? 'crashed', tone: 'bad' };
    case 'restarting': return { text: fact?.backoff_ms ? `back in up to ${Math.max(0.1, fact.backoff_ms / 1000).toFixed(1)} s` : 'coming back', tone: 'warn' };
    case 'terminated': return { text: 'stopped', tone: 'mute' };
    case 'stopping': return { text: 'ends its turn', tone: 'warn' };
    default:
      if (status.queue_depth) return { text: `${status.queue_depth} waiting`, tone: 'warn' };
      if (fact?.event === 'bot_restarted' && at - new Date(fact.at) < 60_000) return { text: 'restarted just now', tone: '' };
      return { text: 'no turn', tone: 'mute' };
  }
}
