// Models & servers: a card for each server, the models over all of them, pulls. Topic `models`, read on while it is open.

import { register } from '../actions.js';
import * as api from '../api.js';
import { actionButton } from '../components/controls.js';
import { icon } from '../components/icon.js';
import { openMenu } from '../components/menu.js';
import { COLUMNS, modelCard, modelRow, pullCard, pullRow } from '../components/model-rows.js';
import { serverCard } from '../components/server-card.js';
import { setTitle } from '../components/shell.js';
import { toast } from '../components/toast.js';
import { bytes, count } from '../format.js';
import { html, list, patch } from '../html.js';
import { followModels, modelsSoon, pullsSoon } from '../model-feeds.js';
import { loadedOn, modelState, onDisk, rows } from '../model/models.js';
import { MODEL_MENU, SERVER_MENU } from '../server-actions.js';
import { store, watch } from '../store.js';

const phone = matchMedia('(max-width: 640px)');

export function mount(root) {
  const view = { name: '', server: '', error: '', busy: false, dismissed: new Set(), loading: {} };
  const known = new Map(); // pull id → state, to say aloud what ended
  root.append(html`<form class="bar pull-f" aria-label="Pull a model"></form><div class="scroll" role="region" aria-label="Models and servers" tabindex="0"><div class="pad">
    <div class="srvs"></div><div class="notes"></div><section class="card mdl-w" aria-label="Models"><table class="tbl mdl"><thead><tr>${COLUMNS.map(([label, cls]) => html`<th scope="col" class="${cls ?? ''}">${label}</th>`)}<th scope="col"><span class="vh">Actions</span></th></tr></thead><tbody></tbody></table><ul class="mcs"></ul></section><div class="none"></div></div></div><p class="vh" role="status"></p>`);
  const [form, cards, notes, wrap, table, small, none, status] = ['form', '.srvs', '.notes', '.mdl-w', 'table', '.mcs', '.none', ':scope > [role=status]'].map((s) => root.querySelector(s));
  const end = followModels();

  function draw() {
    const { servers, models, pulls, bots } = store.state;
    const now = Date.now();
    const shown = rows({ models: models.items, pulls, bots: Object.values(bots.byId), dismissed: view.dismissed, loading: view.loading });
    const disk = onDisk(models.items);
    setTitle('Models & servers', models.loaded ? `${count(servers.length, 'server')}, ${count(models.items.length, 'model')}${disk ? `, ${bytes(disk)} on disk` : ''}` : count(servers.length, 'server'));
    drawForm(servers);
    patch(cards, servers.map((s) => serverCard(s, loadedOn(s.name, models.items), now)));
    patch(notes, models.error ? html`<p class="note t-warn">${icon('warn', 't-warn')}<span>The models could not be read: ${models.error} What is shown was true before.</span></p>` : '');
    const items = shown.flatMap((row) => [{ key: row.name, row }, ...row.pulls.map((pull) => ({ key: pull.id, pull, servers }))]);
    table.hidden = phone.matches || !items.length;
    small.hidden = !phone.matches || !items.length;
    wrap.hidden = !items.length;
    const version = ({ row, pull }) => JSON.stringify(pull ? [pull, servers.length] : [row.model, row.users.length, row.pulls.length, modelState(row, now)]);
    const [rowOf, pullOf] = phone.matches ? [modelCard, pullCard] : [modelRow, pullRow];
    list(phone.matches ? small : table.tBodies[0], items, { key: (i) => i.key, version, render: (i) => (i.pull ? pullOf(i) : rowOf(i.row, now)) });
    patch(none, items.length ? '' : models.loaded ? empty(servers) : html`<div class="skel" aria-hidden="true">${Array.from({ length: 5 }, () => html`<i></i>`)}</div>`);
    root.querySelector('.scroll').setAttribute('aria-busy', String(!models.loaded && !models.error));
    speak(pulls);
  }

  function drawForm(servers) {
    const up = servers.filter((s) => s.state !== 'down');
    if (view.server && !up.some((s) => s.name === view.server)) view.server = '';
    patch(form, html`<div class="pull-i"><div class="${`inp ${view.error ? 'err' : ''}`}">${icon('download')}<input id="pull" name="model" aria-label="Pull a model" placeholder="Pull a model: name or name:tag" autocomplete="off" spellcheck="false" autocapitalize="off" .value="${view.name}" aria-invalid="${view.error ? 'true' : null}" aria-describedby="pull-e"></div></div>
      <div class="inp sel"><select name="server" aria-label="Pull to server"><option value="" ?selected="${!view.server}">to any server</option>${up.map((s) => html`<option value="${s.name}" data-key="${s.name}" ?selected="${view.server === s.name}">${`to ${s.name}`}</option>`)}</select></div>
      <button type="submit" class="btn" data-busy="${view.busy ? '1' : null}" ?disabled="${view.busy}"><span>Pull</span></button><span class="grow"></span>${actionButton('server.add')}
      <p class="err-t" id="pull-e" ?hidden="${!view.error}">${icon('warn')}<span>${view.error}</span></p>`);
  }

  /** What ended meanwhile is said once. */
  function speak(pulls) {
    for (const pull of pulls) {
      const before = known.get(pull.id);
      known.set(pull.id, pull.state);
      if (before !== 'running' || pull.state === 'running') continue;
      status.textContent = pull.state === 'done' ? `${pull.model} is pulled to ${pull.server}` : `The pull of ${pull.model} ${pull.state === 'failed' ? 'failed' : 'is cancelled'}`;
    }
  }

  const stop = watch(draw, { every: 1000 });
  phone.addEventListener('change', stop.soon);

  async function pull(e) {
    e.preventDefault();
    const name = view.name.trim();
    if (!name || view.busy) return;
    Object.assign(view, { busy: true, error: '' });
    stop.soon();
    try {
      await api.pullModel(name, view.server || undefined);
      if (view.name.trim() === name) view.name = ''; // the next name may be there already
      pullsSoon();
    } catch (problem) {
      view.error = problem.errors?.find((error) => error.field === 'model')?.reason ?? problem.message;
      if (problem.errors?.length) view.error = `The name ${view.error}.`;
    }
    view.busy = false;
    stop.soon();
    form.querySelector('#pull').focus();
  }
  function onInput(e) {
    if (e.target.name === 'model') Object.assign(view, { name: e.target.value, error: '' });
    if (e.target.name === 'server') view.server = e.target.value;
    stop.soon();
  }
  async function preload(name) {
    view.loading[name] = Date.now();
    stop.soon();
    try {
      const { servers } = await api.preloadModel(name);
      toast(`${name} is in the memory of ${servers.join(', ')}.`);
    } finally {
      delete view.loading[name];
      modelsSoon();
      stop.soon();
    }
  }
  const current = () => document.activeElement?.closest?.('[data-model]');
  const step = (by) => {
    const all = [...(phone.matches ? small : table).querySelectorAll('[data-model]')];
    all[Math.min(all.length - 1, Math.max(0, all.indexOf(current()) + by))]?.focus();
  };
  const button = (from) => from.closest('button') ?? from.querySelector?.('[aria-haspopup]') ?? from;
  const off = register({
    'models.serverMenu': { label: 'Actions of the server', run: (name, from) => openMenu(button(from), `Actions for ${name}`, SERVER_MENU, name) },
    'models.menu': { label: 'Actions of the row', key: '.', group: 'Lists', where: () => current()?.dataset.model, run: (name, from) => openMenu(button(from), `Actions for ${name}`, MODEL_MENU, name) },
    'models.dismiss': { label: 'Put away', run: (id) => { view.dismissed.add(id); stop.soon(); } },
    'models.field': { label: 'Pull a model', key: '/', group: 'Models', where: () => null, run: () => form.querySelector('#pull').focus() },
    'models.next': { label: 'Next row', key: 'J', group: 'Lists', where: () => null, run: () => step(1) },
    'models.previous': { label: 'Previous row', key: 'K', group: 'Lists', where: () => null, run: () => step(-1) },
    'model.preload': { label: 'Load into memory', icon: 'play', can: (name) => (view.loading[name] ? 'It is being loaded' : store.state.models.items.some((m) => m.name === name && m.servers.length) || 'No server that answers has it'), run: preload },
  });
  form.addEventListener('submit', pull);
  form.addEventListener('input', onInput);

  return {
    unmount() {
      stop();
      off();
      end();
      phone.removeEventListener('change', stop.soon);
    },
  };
}

function empty(servers) {
  const [title, words] = servers.some((s) => s.state !== 'down') ? ['No model is here yet', 'Pull one above, for example llama3.2 (2.0 GB).']
    : servers.length ? ['No model server answers', 'The models come back when one of the servers above does. Start Ollama there, or add a server.']
      : ['There is no model server', 'Add one above: messages wait for it.'];
  return html`<div class="empty">${icon('models', 'big')}<h2>${title}</h2><p>${words}</p></div>`;
}
