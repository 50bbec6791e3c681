// Bots: filter, groups with counts, table or grid, launch. Topic `bots`.

import { register } from '../actions.js';
import { BOT_MENU } from '../bot-actions.js';
import { actionButton, kbd, pips, segmented, stateLabel } from '../components/controls.js';
import { icon } from '../components/icon.js';
import { openMenu } from '../components/menu.js';
import { setTitle } from '../components/shell.js';
import { ago, count, int, span } from '../format.js';
import { html, list, patch } from '../html.js';
import { matches, now, parse, sorted, tokens } from '../model/bot-filter.js';
import { here, setQuery } from '../router.js';
import { groupOf, rank } from '../states.js';
import { store, watch } from '../store.js';

const COLUMNS = [['name', 'Bot'], ['state', 'State'], [null, 'Now'], ['model', 'Model'], [null, 'Budget'], ['restarts', 'Restarts', 'n'], ['queue', 'Waiting', 'n'], ['tokens', 'Tokens', 'n'], ['uptime', 'Uptime', 'n'], [null, 'Last message', 'n']];
const GROUPS = [['all', 'All'], ['working', 'Working'], ['serving', 'Serving'], ['trouble', 'Trouble'], ['stopped', 'Stopped']];

const lastAt = (bot) => bot.status?.last_message?.created_at ?? bot.status?.last_message;
const zero = (n) => (n ? int(n) : html`<span class="t3">0</span>`);
const uptime = (bot) => {
  const s = bot.status;
  if (!s || ['terminated', 'quarantined', 'crashed'].includes(bot.state) || s.uptime_seconds === null || s.uptime_seconds === undefined) return null;
  return s.uptime_seconds + Math.max(0, (Date.now() - new Date(s.updated_at ?? Date.now())) / 1000);
};
const budget = (bot) => pips(bot.status?.restarts_left, 5);

function row(bot) {
  const act = now(bot, store.state.facts[bot.id], Date.now());
  const up = uptime(bot);
  const name = bot.name || bot.id;
  return html`<tr tabindex="-1" data-bot="${bot.id}">
    <td><a href="${`/chat/${encodeURIComponent(bot.id)}`}"><b>${name}</b></a> <span class="mono t3 bid">${bot.id}</span></td>
    <td>${stateLabel(bot.state)}</td><td class="ell now ${act.tone ? `t-${act.tone}` : 't2'}" title="${act.text}">${act.text}</td>
    <td class="mono t2 ell mdl" title="${bot.config?.model ?? 'none'}">${bot.config?.model ?? 'none'}</td><td>${budget(bot)}</td>
    <td class="n">${zero(bot.status?.restart_count)}</td><td class="n ${bot.status?.queue_depth > 2 ? 't-warn' : ''}">${zero(bot.status?.queue_depth)}</td>
    <td class="n t2">${zero(tokens(bot))}</td><td class="n t2">${up === null ? html`<span class="t3">none</span>` : span(up)}</td>
    <td class="n t2">${lastAt(bot) ? ago(lastAt(bot)) : html`<span class="t3">none</span>`}</td>
    <td>${more(bot)}</td></tr>`;
}

const more = (bot) => html`<button type="button" class="btn ghost only sm" data-action="bots.menu" data-arg="${bot.id}" aria-haspopup="menu" aria-label="${`Actions for ${bot.name || bot.id}`}" title="Actions (.)">${icon('dots')}</button>`;

function card(bot) {
  const act = now(bot, store.state.facts[bot.id], Date.now());
  return html`<li class="card bc" data-bot="${bot.id}"><div class="row"><a href="${`/chat/${encodeURIComponent(bot.id)}`}" class="grow ell"><b>${bot.name || bot.id}</b> <span class="mono t3">${bot.id}</span></a>${stateLabel(bot.state)}</div>
    <div class="row bc-2"><span class="mono t3 ell grow">${bot.config?.model ?? 'none'}</span><span class="num ell ${act.tone ? `t-${act.tone}` : 't2'}">${act.text}</span></div>
    <div class="row bc-3"><span class="grow">${budget(bot)}</span>${actionButton('bot.chat', { arg: bot.id, only: true, kind: 'ghost', label: `Open chat with ${bot.name || bot.id}` })}${more(bot)}</div></li>`;
}

/** Everything a row shows, as one string: a row is drawn again only when it differs. Times are rounded to what is printed. */
function version(bot) {
  const up = uptime(bot);
  return JSON.stringify([bot.name, bot.state, bot.config?.model, bot.status?.restarts_left, bot.status?.restart_count, bot.status?.queue_depth, tokens(bot), up === null ? '' : span(up), lastAt(bot) ? ago(lastAt(bot)) : '', now(bot, store.state.facts[bot.id], Date.now()).text]);
}

const empty = () => html`<div class="empty">
  <svg class="e-art" viewBox="0 0 240 96" aria-hidden="true"><path d="M28 48h48M76 48V22a10 10 0 0 1 10-10h40M76 48v26a10 10 0 0 0 10 10h40M76 48h50" fill="none"></path><circle cx="20" cy="48" r="9" class="f"></circle><circle cx="136" cy="12" r="9" class="f"></circle><circle cx="136" cy="84" r="9" class="f"></circle><circle cx="136" cy="48" r="9" class="d"></circle><path class="pl" d="M136 44v8M132 48h8"></path><rect x="156" y="42" width="4" height="12" rx="1.5" class="p"></rect><rect x="163" y="42" width="4" height="12" rx="1.5" class="p"></rect><rect x="170" y="42" width="4" height="12" rx="1.5" class="p"></rect><rect x="177" y="42" width="4" height="12" rx="1.5" class="p"></rect><rect x="184" y="42" width="4" height="12" rx="1.5" class="p"></rect></svg>
  <h2>Launch your first bot</h2><p>A bot is a model, a prompt and a memory. It starts in milliseconds and restarts by itself if it crashes.</p>
  <div class="row">${actionButton('bot.launch', { kind: 'primary', label: 'Launch a bot', showKey: true })}</div>
  <p class="t3">${modelsFact()} ${kbd('?')} shows every shortcut.</p></div>`;

function modelsFact() {
  const { items, loaded } = store.state.models;
  if (!loaded) return '';
  const real = items.filter((m) => !m.simulated).length;
  return real ? `${count(real, 'model')} ready.` : items.length ? 'No Ollama model is here: a simulated one answers from a script.' : 'No model is here yet.';
}

export function mount(root) {
  const at = here().query;
  const view = { q: at.get('q') ?? '', group: at.get('group') ?? 'all', sort: at.get('sort') ?? 'name', grid: at.get('view') === 'grid' };
  root.append(html`<div class="bar"></div><div class="scroll" role="region" aria-label="Bots" tabindex="0">
    <table class="tbl stick bots"><thead></thead><tbody></tbody></table><ul class="cards"></ul><div class="none"></div></div>
    <button type="button" class="btn primary fab only-phone" data-action="bot.launch" aria-label="Launch bot">${icon('plus')}</button>`);
  const bar = root.querySelector('.bar');
  const [table, cards, none, scroll] = ['table', '.cards', '.none', '.scroll'].map((s) => root.querySelector(s));
  let order = [];
  let held = false; // rows hold still under the pointer

  const draw = () => {
    const { bots } = store.state;
    const all = Object.values(bots.byId);
    const tests = parse(view.q);
    const found = all.filter((b) => matches(b, tests));
    const shown = found.filter((b) => view.group === 'all' || groupOf(b.state) === view.group);
    const wanted = sorted(shown, view.sort, { rank });
    // While the pointer is in the table known rows keep their places; new ones come at the end.
    const place = new Map(order.map((id, i) => [id, i]));
    const rows = held ? [...wanted].sort((a, b) => (place.get(a.id) ?? Infinity) - (place.get(b.id) ?? Infinity) || 0) : wanted;
    order = rows.map((b) => b.id);
    const serving = all.filter((b) => ['serving', 'working'].includes(groupOf(b.state))).length;
    setTitle('Bots', !bots.loaded ? '' : all.length ? `${int(all.length)}, ${int(serving)} serving` : 'none yet');
    const first = bots.loaded && !all.length;
    root.classList.toggle('is-empty', first);
    patch(bar, first ? '' : html`<div class="inp filt">${icon('filter')}<input id="bots-filter" type="search" aria-label="Filter bots" placeholder="Filter: name, model:qwen3, restarts>0" .value="${view.q}" autocomplete="off" spellcheck="false"></div>
      ${segmented('State', 'bots.group', GROUPS.map(([value, label]) => ({ value, label, count: value === 'all' ? found.length : found.filter((b) => groupOf(b.state) === value).length })), view.group)}
      <span class="grow"></span>${segmented('View', 'bots.view', [{ value: 'table', label: 'Table', icon: 'logs' }, { value: 'grid', label: 'Grid', icon: 'grid' }], view.grid ? 'grid' : 'table')}
      ${actionButton('bot.launch', { kind: 'primary', showKey: true })}`);
    bar.hidden = first;
    const asCards = view.grid || matchMedia('(max-width: 640px)').matches;
    table.hidden = first || asCards || !rows.length;
    cards.hidden = first || !asCards || !rows.length;
    cards.classList.toggle('gridv', view.grid);
    patch(table.tHead, html`<tr>${COLUMNS.map(([key, label, cls]) => {
      const on = key && view.sort.replace('-', '') === key;
      const down = view.sort.startsWith('-');
      return html`<th scope="col" class="${cls ?? ''}" aria-sort="${on ? (down ? 'descending' : 'ascending') : null}">${key ? html`<button type="button" class="sort" data-action="bots.sort" data-arg="${key}">${label}${on ? icon(down ? 'down' : 'up') : ''}</button>` : label}</th>`;
    })}<th scope="col"><span class="vh">Actions</span></th></tr>`);
    const same = { key: (b) => b.id, version };
    if (asCards) list(cards, rows, { ...same, render: card });
    else list(table.tBodies[0], rows, { ...same, render: row });
    patch(none, first ? empty() : !bots.loaded ? skeleton() : rows.length ? '' : html`<div class="empty"><h2>${view.q ? html`No bot matches <span class="mono">${view.q}</span>.` : `No bot is ${view.group === 'all' ? 'here' : `in the group ${view.group}`}.`}</h2><div class="row"><button type="button" class="btn" data-action="bots.clear">Clear the filter</button></div></div>`);
    scroll.setAttribute('aria-busy', String(!bots.loaded));
  };
  const stop = watch(draw, { every: 1000 });

  const current = () => document.activeElement?.closest?.('[data-bot]');
  const step = (by) => {
    const all = [...root.querySelectorAll(table.hidden ? '.cards > li' : 'tbody > tr')];
    const next = all[Math.min(all.length - 1, Math.max(0, all.indexOf(current()) + by))];
    (next?.matches('tr') ? next : next?.querySelector('a'))?.focus();
  };
  const target = () => current()?.dataset.bot;
  const off = register({
    'bots.group': { label: 'State', run: (group) => { view.group = group; setQuery({ group: group === 'all' ? '' : group }); stop.soon(); } },
    'bots.view': { label: 'View', run: (v) => { view.grid = v === 'grid'; setQuery({ view: view.grid ? 'grid' : '' }); stop.soon(); } },
    'bots.sort': { label: 'Sort', run: (key) => { view.sort = view.sort === key ? `-${key}` : key; held = false; setQuery({ sort: view.sort === 'name' ? '' : view.sort }); stop.soon(); } },
    'bots.clear': { label: 'Clear the filter', run: () => { Object.assign(view, { q: '', group: 'all' }); setQuery({ q: '', group: '' }); stop.soon(); } },
    'bots.menu': { label: 'Actions of the row', key: '.', group: 'Lists', where: target, run: (id, from) => openMenu(from.closest('button') ?? from.querySelector?.('[aria-haspopup]') ?? from, `Actions for ${id}`, BOT_MENU, id) },
    'bots.filter': { label: 'Filter this page', key: '/', group: 'Everywhere', where: () => null, run: () => root.querySelector('#bots-filter')?.focus() },
    'bots.next': { label: 'Next row', key: 'J', group: 'Lists', where: () => null, run: () => step(1) },
    'bots.previous': { label: 'Previous row', key: 'K', group: 'Lists', where: () => null, run: () => step(-1) },
  });
  root.addEventListener('input', onInput);
  root.addEventListener('keydown', onKey);
  const hold = () => { held = true; };
  const release = () => { held = false; stop.soon(); };
  table.addEventListener('pointerenter', hold);
  table.addEventListener('pointerleave', release);

  function onInput(e) {
    if (e.target.id !== 'bots-filter') return;
    view.q = e.target.value;
    setQuery({ q: view.q });
    stop.soon();
  }
  function onKey(e) {
    if (e.key === 'Enter' && e.target.matches('tr[data-bot]')) e.target.querySelector('a').click();
    if (e.key === 'Escape' && e.target.id === 'bots-filter') { view.q = ''; setQuery({ q: '' }); stop.soon(); }
  }
  return {
    unmount() {
      stop();
      off();
      root.removeEventListener('input', onInput);
      root.removeEventListener('keydown', onKey);
      root.classList.remove('is-empty');
    },
  };
}

const skeleton = () => html`<div class="skel" aria-hidden="true">${Array.from({ length: 8 }, () => html`<i></i>`)}</div>`;
