// What the state of the model servers means for a person. Pure.

import { count, eta, int, ordinal, span, within } from '../format.js';

export const allDown = (servers) => servers.length > 0 && servers.every((s) => s.state === 'down');

const SLOTS_MAX = 1024;

/** What is wrong with a number of slots as it was typed; nothing typed is the server's own number. */
export const slotsRefused = (text) => (!text.trim() || (/^\d+$/.test(text.trim()) && Number(text) >= 1 && Number(text) <= SLOTS_MAX) ? '' : `A whole number from 1 to ${SLOTS_MAX}.`);

const seconds = (at, now) => (at ? (new Date(at) - now) / 1000 : null);

/** Seconds until the first of these servers is tried again; null where nothing is planned. */
export function nextTry(servers, now) {
  const times = servers.map((s) => seconds(s.breaker?.retry_at, now)).filter((s) => s !== null);
  return times.length ? Math.max(0, Math.min(...times)) : null;
}

/** State in words; one that does not serve says since when. */
export function stateWords(server, now) {
  if (server.state === 'up') return 'Up';
  const word = server.state === 'draining' ? 'Draining' : 'Down';
  const since = seconds(server.since, now);
  return since === null || since > -1 ? word : `${word}, ${span(-since)}`;
}

export const BREAKER = [['closed', 'Closed', 'ok'], ['half_open', 'Trial', 'warn'], ['open', 'Open', 'bad']];

/** Why turns do not reach a server, and when that is tried again; null for one that serves. `{tone, what, then}` */
export function trouble(server, now) {
  const { state = 'closed', reason, retry_at: at } = server.breaker ?? {};
  const next = at ? ` Next try ${within(Math.max(0, seconds(at, now)))}.` : '';
  const why = reason ? sentence(reason) : '';
  if (server.state === 'draining') return { tone: 'warn', what: 'Drained.', then: `${server.slots?.busy ? `${count(server.slots.busy, 'turn')} still ${server.slots.busy === 1 ? 'runs' : 'run'} here. ` : ''}It gets no new turns until it is resumed.` };
  if (state === 'half_open') return { tone: 'warn', what: 'On trial.', then: `One turn is let through; if it is answered, the others follow.${why && ` Before: ${why}`}` };
  if (state === 'open') return { tone: 'bad', what: why || 'It failed.', then: `No turns are sent here.${next}` };
  if (server.state === 'down') return { tone: 'bad', what: why ? `It does not answer: ${why}` : 'It does not answer.', then: `No turns are sent here.${next}` };
  return null;
}

/** The models that get no turns at a server for a while, each in a sentence. */
export function pausedWords(server, now) {
  return (server.breaker?.paused_models ?? []).map(({ model, reason, retry_at: at }) => {
    const next = seconds(at, now);
    return `${model} paused: ${reason ? reason.replace(/\.$/, '') : 'it failed several times in a row'}${next === null ? '' : `, tried again ${within(Math.max(0, next))}`}.`;
  });
}

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1).replace(/\.$/, '')}.`;

/** The gate in one sentence: what runs, what waits, how long that takes. */
export function gateWords(server) {
  const { slots = { busy: 0, total: 0 }, queue = { depth: 0 } } = server;
  if (server.state === 'draining') return slots.busy ? `${int(slots.busy)} of ${int(slots.total)} busy, no new turns` : 'no new turns';
  if (server.state === 'down') return queue.depth ? `${int(queue.depth)} ${queue.depth === 1 ? 'waits' : 'wait'}, no turns sent` : 'no turns sent';
  const busy = slots.busy ? `${int(slots.busy)} of ${int(slots.total)} busy` : `${count(slots.total, 'slot')} free`;
  if (!queue.depth) return slots.busy && slots.busy >= slots.total ? `${busy}, the next one waits` : `${busy}, no wait`;
  return `${int(queue.depth)} ${queue.depth === 1 ? 'waits' : 'wait'}, ${queue.eta_s === null || queue.eta_s === undefined ? 'time not known' : `a new one ${eta(queue.eta_s)}`}`;
}

/** The server at whose gate a turn stands: events name it when it moves; where only one is up it is that one. */
export function gateOf(queue, servers) {
  if (queue?.server) return servers.find((s) => s.name === queue.server) ?? null;
  const up = servers.filter((s) => s.state === 'up');
  return up.length === 1 ? up[0] : null;
}

/** A waiting turn: what it waits for, in a sentence. `server` is the one at whose gate it stands, if known. */
export function waitWords(position, server) {
  if (!position) return 'It is next, once the answer above has ended.';
  const total = server?.slots?.total;
  const busy = !server ? 'All slots are busy.' : total === 1 ? `The only slot of ${server.name} is busy.` : `All ${int(total)} slots of ${server.name} are busy.`;
  return `${busy} Bots and people take turns, so nobody can fill the line.`;
}

/** The title of a waiting turn: "3rd in line at gpu-a". */
export const placeWords = (position, server) => `${ordinal(position)} in line${server ? ` at ${server}` : ''}`;

/** What a turn waits for that has written something and stands in line again. */
export const lineWords = ({ gives_up_at: gives, position, server }) => (gives ? 'waits for a model server' : position ? `waits, ${placeWords(position, server)}` : 'waits in line');

/**
 * Whether a turn is held because no server answers: `{left, next}` in seconds, each null where not known, or null where it is
 * not. `queue.gives_up_at` is the server's own word; without it every server being down is.
 */
export function held(queue, servers, now) {
  const gives = queue?.gives_up_at;
  if (!gives && !allDown(servers)) return null;
  const left = seconds(gives, now);
  return { left: left === null ? null : Math.max(0, left), next: nextTry(servers, now) };
}
