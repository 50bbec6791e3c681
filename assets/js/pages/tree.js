// Supervision: the live tree, its recorder and the pane of the selected actor. Topic `tree`; reading never sends a
// message to a bot.

import { register } from '../actions.js';
import { nameOf } from '../bot-actions.js';
import { segmented, stateGlyph, pips } from '../components/controls.js';
import { icon } from '../components/icon.js';
import { RANGES, recorder } from '../components/recorder.js';
import { setTitle } from '../components/shell.js';
import { TreeCanvas, calmState, titleOf } from '../components/tree-canvas.js';
import { detail } from '../components/tree-detail.js';
import { drawOutline, outlineRows } from '../components/tree-outline.js';
import { followTree } from '../feeds.js';
import { clock, count, duration, int } from '../format.js';
import { html, patch } from '../html.js';
import { inSequence } from '../keys.js';
import { byRank, find, flatten, inGroup, isBot, newestFirst } from '../model/tree.js';
import { layout } from '../model/tree-layout.js';
import { here, setQuery } from '../router.js';
import { look } from '../states.js';
import { store, watch } from '../store.js';

const CALM_MS = 10_000;
const phone = matchMedia('(max-width: 640px)');
const narrow = matchMedia('(max-width: 900px)');

export function mount(root) {
  const view = { find: '', group: 'all', range: '10m', live: true, frozen: null, frozenAt: 0, at: here().query.get('at'), pane: !narrow.matches };
  const folded = new Set();
  const places = new Map(); // bot → {rank order, since}: up at once, down after 10 calm seconds
  const unfollow = followTree({ live: () => view.live });
  let shape = null;
  let typed = '';
  let typedAt = 0;

  root.append(html`<div class="bar"></div><div class="split tsplit" aria-busy="true"><div class="tcol"><div class="tview"></div><div class="otl" role="tree" aria-label="Supervision tree"></div><section class="rec" aria-label="Restart recorder"></section></div><aside class="det" aria-label="Selected actor"></aside></div>`);
  const [bar, tview, outline, rec, pane, split] = ['.bar', '.tview', '.otl', '.rec', '.det', '.tsplit'].map((s) => root.querySelector(s));
  const canvas = new TreeCanvas(tview);
  const size = new ResizeObserver(() => stop.soon());
  size.observe(tview);

  const tree = () => (view.live ? store.state.tree : view.frozen);

  /** Trouble first; a bot moves up at once and down only after 10 calm seconds. */
  function ordered(bots) {
    const now = Date.now();
    const wanted = byRank(bots, (n) => nameOf(n.name));
    const held = bots.map((b) => {
      const rank = wanted.indexOf(b);
      const old = places.get(b.path);
      const group = look(b.state).state;
      if (!old || rank <= old.rank || now - old.since > CALM_MS) places.set(b.path, { rank, since: old && old.group === group ? old.since : now, group });
      return b;
    });
    return [...held].sort((a, b) => places.get(a.path).rank - places.get(b.path).rank || wanted.indexOf(a) - wanted.indexOf(b));
  }

  const matches = (n) => (view.group === 'all' || inGroup(n.state, view.group)) && (!view.find || `${nameOf(n.name)} ${n.name}`.toLowerCase().includes(view.find.toLowerCase()));

  function selected(t) {
    if (!t) return null;
    const by = view.at && flatten(t).find(({ node }) => node.path === view.at || node.path.endsWith(`/${view.at}`));
    if (by) return by;
    const bots = t.children?.find((c) => c.name === 'bots');
    const first = bots && byRank(bots.children ?? [], (n) => nameOf(n.name))[0];
    return find(t, first?.path ?? t.path);
  }

  function nowOf(node) {
    const s = look(node.state).state;
    if (s === 'restarting') return { text: node.backoff_ms ? `back in up to ${duration(node.backoff_ms)}` : 'coming back', tone: 'warn' };
    if (s === 'quarantined') return { text: `${count(node.restarts ?? 0, 'crash').replace('crashs', 'crashes')}, restart it when the cause is gone`, tone: 'quar' };
    if (s === 'crashed') return { text: node.last_exit ?? 'crashed', tone: 'bad' };
    const server = store.state.servers.find((x) => x.name === node.name);
    if (server) return server.state === 'down' ? { text: server.breaker?.state === 'open' ? 'breaker open' : 'does not answer', tone: 'bad' } : { text: `${int(server.slots?.busy ?? 0)} of ${int(server.slots?.total ?? 0)} slots${server.queue?.depth ? `, ${int(server.queue.depth)} waiting` : ''}`, tone: '' };
    if (s === 'processing') return { text: 'answering', tone: 'live' };
    return { text: '', tone: '' };
  }

  function draw() {
    const t = tree();
    const bots = t?.children?.find((c) => c.name === 'bots')?.children ?? [];
    drawBar(t, bots);
    split.setAttribute('aria-busy', String(!t));
    if (!t) return;
    const now = view.live ? Date.now() : view.frozenAt;
    const hit = selected(t);
    const order = (list) => ordered(list).filter(matches);
    const path = new Set();
    if (hit) flatten(t).forEach(({ node }) => { if (hit.node.path === node.path || hit.node.path.startsWith(`${node.path}/`) || node === t) path.add(node.path); });
    const ctx = { nameOf, nowOf, now, selected: hit?.node.path, path, folded, servers: store.state.servers };
    outline.hidden = !phone.matches;
    tview.hidden = phone.matches;
    if (phone.matches) drawOutline(outline, outlineRows(t, { folded, order }), ctx);
    else {
      shape = layout(t, { width: tview.clientWidth - 2, height: tview.clientHeight - 2, bots: order(bots), folded });
      canvas.draw(shape, ctx);
    }
    patch(rec, recorder(t, { now, range: view.range, nameOf }));
    split.classList.toggle('pane-open', view.pane);
    if (hit) patch(pane, detail(hit, ctx));
    const actors = flatten(t);
    const minute = actors.reduce((n, { node }) => n + newestFirst(node.history).filter((h) => now - new Date(h.at) < 60_000).length, 0);
    setTitle('Supervision', `${count(actors.length, 'actor')}, ${minute ? `${count(minute, 'restart')} in the last minute` : 'no restart in the last minute'}`);
  }

  function drawBar(t, bots) {
    const group = (g) => bots.filter((b) => inGroup(b.state, g)).length;
    patch(bar, html`<div class="inp filt">${icon('search')}<input id="tree-find" type="search" aria-label="Find an actor" placeholder="Find an actor" autocomplete="off" spellcheck="false" .value="${view.find}"></div>
      ${segmented('Show', 'tree.group', [{ value: 'all', label: 'All' }, { value: 'trouble', label: 'Trouble', count: group('trouble') }, { value: 'working', label: 'Working', count: group('working') }], view.group)}
      <span class="grow"></span>${view.live ? html`<span class="legend no-phone" aria-hidden="true">${[['processing', 'working'], ['ready', 'serving'], ['restarting', 'restarting'], ['quarantined', 'quarantined']].map(([s, l]) => html`<span class="t2 row g4">${stateGlyph(s)}${l}</span>`)}<span class="t2 row g4">${pips(3, 5, { label: false })}budget</span></span>` : html`<span class="t-warn" role="status">You see ${clock(view.frozenAt, true)}.</span>`}
      ${segmented('Mode', 'tree.mode', [{ value: 'live', label: 'Live' }, { value: 'pause', label: 'Pause' }], view.live ? 'live' : 'pause')}`);
  }

  const stop = watch(draw, { every: 1000 });

  const items = () => [...(phone.matches ? outline : canvas.tree).querySelectorAll('[role=treeitem]')];
  function select(path, { focus = false, open = false } = {}) {
    view.at = path;
    setQuery({ at: path });
    if (open) view.pane = true;
    draw();
    if (focus) {
      const el = items().find((x) => x.dataset.path === path);
      el?.focus();
      el?.scrollIntoView({ block: 'nearest' });
    }
  }
  const chosenBot = () => {
    const hit = selected(tree());
    return hit && isBot(hit.parent) ? hit.node.name : undefined;
  };
  const trouble = (by) => {
    const t = tree();
    const list = t ? flatten(t).filter(({ node, parent }) => parent && ['bad', 'quar', 'warn'].includes(look(isBot(parent) ? node.state : calmState(node)).tone)).map(({ node }) => node.path) : [];
    if (!list.length) return;
    const at = list.indexOf(view.at);
    select(list[(at + by + list.length) % list.length], { focus: true, open: true });
  };
  const fold = (path, on) => { if (on) folded.add(path); else folded.delete(path); draw(); };

  function onKey(e) {
    const item = e.target.closest?.('[role=treeitem]');
    if (e.key === 'Escape' && view.pane && narrow.matches) { view.pane = false; draw(); return; }
    if (!item || e.ctrlKey || e.metaKey || e.altKey) return;
    const all = items();
    const at = all.indexOf(item);
    const { path } = item.dataset;
    const expanded = item.getAttribute('aria-expanded');
    const level = Number(item.getAttribute('aria-level'));
    const to = (el) => el && select(el.dataset.path, { focus: true });
    switch (e.key) {
      case 'ArrowDown': to(all[at + 1]); break;
      case 'ArrowUp': to(all[at - 1]); break;
      case 'Home': to(all[0]); break;
      case 'End': to(all.at(-1)); break;
      case 'ArrowRight': if (expanded === 'false') fold(path, false); else if (expanded === 'true') to(all[at + 1]); break;
      case 'ArrowLeft': if (expanded === 'true') fold(path, true); else to(all.slice(0, at).reverse().find((x) => Number(x.getAttribute('aria-level')) < level)); break;
      case 'Enter': select(path, { open: true }); break;
      default: {
        // N, P, R, K, G, / and ? are keys of their own as the first letter.
        if (e.key.length !== 1 || e.key === ' ' || inSequence() || (/[nprkg?/]/i.test(e.key) && Date.now() - typedAt > 700)) return;
        typed = Date.now() - typedAt > 700 ? e.key : typed + e.key;
        typedAt = Date.now();
        const name = (x) => titleOf(find(tree(), x.dataset.path).node, nameOf).toLowerCase();
        to([...all.slice(at + (typed.length > 1 ? 0 : 1)), ...all].find((x) => name(x).startsWith(typed.toLowerCase())));
      }
    }
    e.preventDefault();
    e.stopPropagation();
  }
  const onClick = (e) => {
    const item = e.target.closest('[role=treeitem]');
    if (!item) return;
    if (e.target.closest('[data-fold]')) fold(item.dataset.path, item.getAttribute('aria-expanded') === 'true');
    else select(item.dataset.path, { focus: true, open: true });
  };
  const onDouble = (e) => {
    const item = e.target.closest('[role=treeitem][aria-expanded]');
    if (item) fold(item.dataset.path, item.getAttribute('aria-expanded') === 'true');
  };
  const onInput = (e) => {
    if (e.target.id !== 'tree-find') return;
    view.find = e.target.value;
    stop.soon();
  };
  root.addEventListener('keydown', onKey);
  root.addEventListener('click', onClick);
  root.addEventListener('dblclick', onDouble);
  root.addEventListener('input', onInput);
  phone.addEventListener('change', stop.soon);

  const mode = (live) => {
    view.frozen = live ? null : store.state.tree;
    view.frozenAt = Date.now();
    view.live = live;
    stop.soon();
  };
  const off = register({
    'tree.select': { label: 'Select', run: (path) => select(path, { focus: true, open: true }) },
    'tree.closePane': { label: 'Close pane', run: () => { view.pane = false; stop.soon(); } },
    'tree.group': { label: 'Show', run: (group) => { view.group = group; stop.soon(); } },
    'tree.range': { label: 'Range', run: (range) => { if (RANGES[range]) view.range = range; stop.soon(); } },
    'tree.mode': { label: 'Live or pause', key: 'Space', group: 'Supervision', where: (e) => (e.target.closest('button, a') ? undefined : view.live ? 'pause' : 'live'), run: (m) => mode(m === 'live') },
    'tree.find': { label: 'Find an actor', key: '/', where: () => null, run: () => root.querySelector('#tree-find')?.focus() },
    'tree.next': { label: 'Next trouble', key: 'N', group: 'Supervision', where: () => null, run: () => trouble(1) },
    'tree.previous': { label: 'Previous trouble', key: 'P', group: 'Supervision', where: () => null, run: () => trouble(-1) },
    'tree.restart': { label: 'Restart', key: 'R', group: 'Supervision', where: chosenBot, run: (id) => root.querySelector(`[data-action="bot.restart"][data-arg="${CSS.escape(id)}"]`)?.click() },
    'tree.kill': { label: 'Kill, with confirmation', key: 'K', group: 'Supervision', where: chosenBot, run: (id) => root.querySelector(`[data-action="bot.kill"][data-arg="${CSS.escape(id)}"]`)?.click() },
  });

  return {
    moved: ({ query }) => { view.at = query.get('at'); view.pane = true; stop.soon(); },
    unmount() {
      stop();
      off();
      unfollow();
      size.disconnect();
      phone.removeEventListener('change', stop.soon);
      root.removeEventListener('keydown', onKey);
      root.removeEventListener('click', onClick);
      root.removeEventListener('dblclick', onDouble);
      root.removeEventListener('input', onInput);
    },
  };
}
