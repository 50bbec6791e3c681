// Models over all servers, joined with what is being pulled and with the bots that use them. Pure.

import { bytes, eta, int } from '../format.js';

/** The name under which Ollama lists a model: without a tag it means "latest". */
const plain = (name) => String(name ?? '').replace(/:latest$/, '');
export const same = (a, b) => plain(a).toLowerCase() === plain(b).toLowerCase();

/** The bots that use a model, as their own or as a fallback. */
export const usersOf = (name, bots) => bots.filter((b) => same(b.config?.model, name) || (b.config?.fallback ?? []).some((f) => same(f, name)));

/** How much of a pull is there, 0 to 100; null before anything is known. */
export const percentOf = ({ progress: { completed, total } = {} }) => (total > 0 ? Math.min(100, Math.floor(((completed ?? 0) / total) * 100)) : null);

/** A pull in words: `{tone, icon, label}`. */
export function pullState(pull) {
  const percent = percentOf(pull);
  const at = percent === null ? '' : ` at ${percent}%`;
  switch (pull.state) {
    case 'running': return { tone: 'live', icon: 'download', label: 'pulling' };
    case 'cancelled': return { tone: 'warn', icon: 'pause', label: `cancelled${at}` };
    case 'failed': return percent ? { tone: 'warn', icon: 'pause', label: `cut off${at}` } : { tone: 'bad', icon: 's-crashed', label: 'failed' };
    default: return { tone: 'ok', icon: 'check', label: 'pulled' };
  }
}

/** What came and how fast: "5.2 GB of 8.1 GB, 48 MB/s, about 1 min". */
export function pullFacts({ state, progress: p = {} }) {
  if (!(p.total > 0)) return '';
  const amount = `${bytes(p.completed ?? 0).replace('no size', '0 B')} of ${bytes(p.total)}`;
  if (state !== 'running') return amount;
  return [amount, p.rate_bytes_s ? `${bytes(p.rate_bytes_s)}/s` : '', p.eta_s === undefined || p.eta_s === null ? '' : eta(p.eta_s)].filter(Boolean).join(', ');
}

/** Whether a pull has to say to which server it is: where there is another one it could be. */
const isOneOf = (pull, servers) => servers.some((s) => s.name !== pull.server);

/** Where a pull stands, or what became of it, in a sentence. */
export function pullWords(pull, servers) {
  if (pull.state === 'running') return `${pull.progress.status || 'begins'}, to ${pull.server}`;
  const words = pull.error?.detail ?? (pull.state === 'cancelled' ? 'What is there is kept for another pull.' : '');
  return isOneOf(pull, servers) ? `To ${pull.server}: ${words || pullState(pull).label}` : words;
}

/** What the button says that goes on with a pull. */
export const againWords = (pull, servers) => `${percentOf(pull) ? 'Resume' : 'Try again'}${isOneOf(pull, servers) ? ` on ${pull.server}` : ''}`;

/** The pulls to be shown: of each model and server the newest, unless it is over and well, or was put away. */
export function shownPulls(pulls, dismissed = new Set()) {
  const newest = new Map();
  for (const pull of pulls) {
    const key = `${pull.server} ${plain(pull.model)}`;
    if (!newest.has(key) || newest.get(key).began_at < pull.began_at) newest.set(key, pull);
  }
  return [...newest.values()].filter((p) => p.state !== 'done' && !dismissed.has(p.id));
}

/** Rows of the table, by name: `{name, model?, pulls, users, loading?}`; a model that is only being pulled has no `model`. */
export function rows({ models, pulls, bots, dismissed, loading = {} }) {
  const open = shownPulls(pulls, dismissed);
  const names = [...models.map((m) => m.name), ...open.map((p) => p.model).filter((name) => !models.some((m) => same(m.name, name)))];
  return [...new Set(names)].sort((a, b) => a.localeCompare(b, 'en', { numeric: true })).map((name) => ({
    name, model: models.find((m) => m.name === name) ?? null, pulls: open.filter((p) => same(p.model, name)), users: usersOf(name, bots), loading: loading[name] ?? null,
  }));
}

/** Where a model stands, in words: `{tone, icon, label}`. */
export function modelState({ model, pulls, loading }, now) {
  const running = pulls.find((p) => p.state === 'running');
  if (running) return pullState(running);
  if (loading) return { tone: 'live', icon: 's-starting', label: `loading, ${int(Math.floor((now - loading) / 1000))} s` };
  const places = model?.servers.filter((s) => s.loaded) ?? [];
  if (places.length) return { tone: 'ok', icon: 's-up', label: `loaded on ${model.servers.length === 1 ? places[0].name : int(places.length)}` };
  if (model?.servers.length) return { tone: 'mute', icon: 's-idle', label: 'on disk' };
  return pulls.length ? pullState(pulls[0]) : { tone: 'mute', icon: 's-idle', label: 'on no server' };
}

const PLACES = 3; // servers that a row names

/** The servers that have a model: the first ones by name, the others counted. */
export function placesOf({ servers }) {
  const names = servers.map((s) => s.name);
  return names.length > PLACES ? `${names.slice(0, PLACES - 1).join(', ')} and ${int(names.length - PLACES + 1)} more` : names.join(', ') || 'none';
}

/** What a server has in memory: `[{name, size, expires_at}]`. */
export const loadedOn = (server, models) => models.flatMap((m) => m.servers.filter((s) => s.name === server && s.loaded).map((s) => ({ name: m.name, size: s.size_vram, expires_at: s.expires_at })));

/** Bytes on the disks of all servers. */
export const onDisk = (models) => models.filter((m) => !m.simulated).reduce((sum, m) => sum + m.size * m.servers.length, 0);
