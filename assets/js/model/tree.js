// The supervision tree as data: walking, changing by events, summarising. Pure.

import { GROUPS, look, rank } from '../states.js';

/** Every node, parents first, with its parent. */
export function walk(node, visit, parent = null, level = 1) {
  visit(node, parent, level);
  for (const child of node.children ?? []) walk(child, visit, node, level + 1);
}

export function flatten(tree) {
  const out = [];
  if (tree) walk(tree, (node, parent, level) => out.push({ node, parent, level }));
  return out;
}

export const find = (tree, path) => flatten(tree).find(({ node }) => node.path === path) ?? null;

/** True for nodes directly below `bots`. */
export const isBot = (parent) => parent?.name === 'bots';
export const isGate = (parent) => parent?.name === 'inference';

function change(node, test, update) {
  if (test(node)) return update(node);
  if (!node.children?.length) return node;
  let touched = false;
  const children = node.children.map((child) => {
    const next = change(child, test, update);
    if (next !== child) touched = true;
    return next;
  });
  return touched ? { ...node, children } : node;
}

function changeBot(tree, id, update) {
  return change(tree, (n) => n.name === 'bots', (bots) => {
    const at = (bots.children ?? []).findIndex((c) => c.name === id);
    if (at < 0) return bots;
    const children = [...bots.children];
    children[at] = update(children[at]);
    return { ...bots, children };
  });
}

const left = (node, n) => (node.intensity && n !== undefined ? { ...node.intensity, left: n } : node.intensity);

/** Applies what an event says at once; the next read of the tree brings the rest. */
export function applyTreeEvent(tree, event) {
  const { data, time } = event;
  switch (event.event) {
    case 'bot_state_changed':
      return changeBot(tree, data.bot_id, (n) => ({ ...n, state: data.state, since: time }));
    case 'bot_crashed':
      return changeBot(tree, data.bot_id, (n) => ({ ...n, state: 'restarting', since: time, last_exit: data.reason, intensity: left(n, data.restarts_left), backoff_ms: data.backoff_ms }));
    case 'bot_restarted':
      return changeBot(tree, data.bot_id, (n) => ({
        ...n, state: 'ready', since: time, restarts: data.restarts, last_exit: data.reason ?? n.last_exit, restartedAt: time, intensity: left(n, data.restarts_left),
        history: closed(n.history, { at: new Date(new Date(time) - (data.took_ms ?? 0)).toISOString(), reason: data.reason, took_ms: data.took_ms, backoff_ms: data.backoff_ms }),
      }));
    case 'bot_quarantined':
      return changeBot(tree, data.bot_id, (n) => ({ ...n, state: 'quarantined', since: time, restarts: data.restarts, last_exit: data.reason, intensity: left(n, 0) }));
    case 'bot_deleted':
      return change(tree, (n) => n.name === 'bots', (bots) => ({ ...bots, children: bots.children.filter((c) => c.name !== data.bot_id) }));
    default: return tree;
  }
}

/** History with the restart that just ended: it fills the open entry of its crash, if there is one. */
function closed(history, entry) {
  const [newest, ...older] = newestFirst(history);
  const open = newest && (newest.took_ms === null || newest.took_ms === undefined);
  return [entry, ...(open ? older : newest ? [newest, ...older] : [])].slice(0, 100);
}

/** How long a child was down, backoff included. */
export const downFor = (h) => h.took_ms ?? h.backoff_ms ?? 0;

/** History in reading order, whatever order it came in. */
export const newestFirst = (history) => [...(history ?? [])].sort((a, b) => new Date(b.at) - new Date(a.at));

/** Trouble first, then by name. */
export const byRank = (nodes, nameOf = (n) => n.name) => [...nodes].sort((a, b) => rank(a.state) - rank(b.state) || nameOf(a).localeCompare(nameOf(b), 'en', { numeric: true }));

export const inGroup = (state, group) => GROUPS[group].includes(look(state).state);

/** Restart history of all nodes within the window, one lane per child, the busiest first. */
export function lanes(tree, { now, windowMs }) {
  const from = now - windowMs;
  const out = [];
  for (const { node, parent } of flatten(tree)) {
    const marks = newestFirst(node.history).map((h) => ({ at: new Date(h.at).getTime(), down: downFor(h), reason: h.reason })).filter((h) => h.at >= from).reverse();
    const quarantined = look(node.state).state === 'quarantined' ? new Date(node.since).getTime() : null;
    if (marks.length || (quarantined && quarantined >= from)) {
      out.push({ node, parent, marks, quarantined, down: marks.reduce((sum, m) => sum + m.down, 0) });
    }
  }
  return out.sort((a, b) => Boolean(b.quarantined) - Boolean(a.quarantined) || b.marks.length - a.marks.length);
}

/** Restarts that count against the budget now, newest first. */
export function spent(node, now) {
  const within = (node.intensity?.within_s ?? 60) * 1000;
  return newestFirst(node.history).map((h) => new Date(h.at).getTime()).filter((at) => now - at < within);
}
