// Launch a bot: name, id, prompt, model and the options that matter. What the server refuses is shown at its field.

import * as api from '../api.js';
import { count } from '../format.js';
import { html } from '../html.js';
import { readModels } from '../model-feeds.js';
import { recall, remember } from '../prefs.js';
import { go } from '../router.js';
import { store } from '../store.js';
import { field, kbd } from './controls.js';
import { openDialog } from './dialog.js';
import { icon } from './icon.js';
import { modelPicker } from './model-picker.js';
import { toast } from './toast.js';

const FIELDS = ['bot_id', 'name', 'system_prompt', 'model', 'num_ctx', 'temperature', 'keep_alive'];
const ID = /^[A-Za-z0-9_-]{1,50}$/;

/** The request that the form stands for; empty fields are left to the server's defaults. */
export function launchBody(form) {
  const s = Object.fromEntries(FIELDS.map((name) => [name, (form[name] ?? '').trim()]));
  const options = {};
  if (s.num_ctx) options.num_ctx = Number(String(s.num_ctx).replace(/[, ]/g, ''));
  if (s.temperature) options.temperature = Number(s.temperature);
  const config = {};
  if (s.model) config.model = s.model;
  if (s.system_prompt) config.system_prompt = s.system_prompt;
  if (s.keep_alive) config.keep_alive = s.keep_alive;
  if (Object.keys(options).length) config.options = options;
  return { ...(s.bot_id && { bot_id: s.bot_id }), ...(s.name && { name: s.name }), ...(Object.keys(config).length && { config }) };
}

/** What can be said without asking the server. */
function check(form) {
  const s = Object.fromEntries(FIELDS.map((name) => [name, form[name].trim()]));
  const errors = {};
  if (s.bot_id && !ID.test(s.bot_id)) errors.bot_id = 'Letters, digits, - and _, at most 50.';
  if (s.bot_id === 'launch' || s.bot_id === 'send') errors.bot_id = 'This word is reserved.';
  if (!s.model) errors.model = 'Choose a model.';
  const ctx = launchBody(s).config?.options?.num_ctx;
  if (ctx !== undefined && !(Number.isInteger(ctx) && ctx >= 256)) errors.num_ctx = 'A whole number, 256 or more.';
  if (s.temperature && !(Number(s.temperature) >= 0 && Number(s.temperature) <= 2)) errors.temperature = 'A number from 0 to 2.';
  return errors;
}

function serverErrors(problem) {
  const errors = {};
  for (const { field: path, reason } of problem.errors ?? []) {
    const name = FIELDS.find((f) => path.split('.').includes(f));
    if (name) errors[name] = reason;
  }
  if (problem.code === 'bot_exists') errors.bot_id = 'This id is in use. Choose another or leave the field empty.';
  return errors;
}

const curl = (s) => `curl -X POST ${location.origin}/api/bot/launch \\\n  -H 'content-type: application/json' \\\n  -d '${JSON.stringify(launchBody(s)).replaceAll("'", "'\\''")}'`;

const first = (models) => recall('lastModel', '') || (models.find((m) => m.servers?.some((s) => s.loaded) && !m.simulated) ?? models.find((m) => !m.simulated) ?? models[0])?.name || '';

export function openLaunch() {
  const running = Object.values(store.state.bots.byId).filter((b) => b.state !== 'terminated').length;
  const s = { bot_id: '', name: '', system_prompt: '', model: first(store.state.models.items), num_ctx: '', temperature: '', keep_alive: '', errors: {} };
  const input = (name, id, more = {}) => html`<input id="${id}" name="${name}" .value="${s[name]}" autocomplete="off" spellcheck="false" inputmode="${more.mode ?? null}" placeholder="${more.ph ?? null}" aria-invalid="${s.errors[name] ? 'true' : null}" aria-describedby="${`${id}-h`}">`;
  let picker = null;

  const d = openDialog({
    title: 'Launch a bot', cls: 'launch', aside: `${count(running, 'bot')} running`, state: s,
    body: () => html`<div class="lg"><div class="col g16">
        <div class="two">${field({ id: 'l-name', label: 'Name', control: input('name', 'l-name', { ph: 'Support desk' }), error: s.errors.name, hint: 'As people call it' })}${field({ id: 'l-id', label: 'Bot ID', control: input('bot_id', 'l-id', { ph: 'next free BOT-…' }), error: s.errors.bot_id, hint: 'Letters, digits, - and _, up to 50' })}</div>
        <div class="field"><label for="l-prompt">System prompt</label><div class="inp ta ${s.errors.system_prompt ? 'err' : ''}"><textarea id="l-prompt" name="system_prompt" rows="6" .value="${s.system_prompt}" aria-describedby="l-prompt-h"></textarea></div><p class="hint" id="l-prompt-h">${s.errors.system_prompt ?? 'What the bot is for and how it answers. May be empty.'}</p></div></div>
      <div class="col g16"><div class="field"><label for="model">Model</label><div class="picker" data-own></div>${s.errors.model ? html`<p class="err-t">${icon('warn')}<span>${s.errors.model}</span></p>` : ''}${simulatedNote(s.model)}</div>
        <div class="two">${field({ id: 'l-ctx', label: 'Context window', control: input('num_ctx', 'l-ctx', { mode: 'numeric', ph: 'default' }), suffix: 'tokens', error: s.errors.num_ctx, hint: '256 or more' })}${field({ id: 'l-temp', label: 'Temperature', control: input('temperature', 'l-temp', { mode: 'decimal', ph: 'default' }), suffix: '0 to 2', error: s.errors.temperature, hint: 'Low is exact, high is free' })}</div>
        ${field({ id: 'l-keep', label: 'Keep loaded', control: input('keep_alive', 'l-keep', { ph: 'default' }), suffix: 'after a turn', error: s.errors.keep_alive, hint: 'For example 10m; 0 unloads at once, -1m never' })}
        <details class="curl"><summary>${icon('term')}<span>Show as curl</span></summary><pre class="why mono" tabindex="0" aria-label="The same as a curl command">${curl(s)}</pre></details></div></div>`,
    footer: ({ busy }) => html`<span class="grow"></span><button type="button" class="btn ghost" data-close>Cancel</button><button type="submit" class="btn" value="chat" ?disabled="${busy}">Launch and open chat</button><button type="submit" class="btn primary" value="" data-busy="${busy ? '1' : null}" ?disabled="${busy}"><span>Launch</span>${kbd('Ctrl Enter')}</button>`,
    submit: async (dialog, how) => {
      s.errors = check(s);
      if (Object.keys(s.errors).length) {
        dialog.draw();
        dialog.el.querySelector('[aria-invalid=true]')?.focus();
        return;
      }
      try {
        const bot = await api.launchBot(launchBody(s));
        remember('lastModel', s.model);
        store.dispatch({ type: 'bot', bot });
        dialog.close();
        const warning = bot.warnings?.[0];
        const words = warning && (typeof warning === 'string' ? warning : warning.detail ?? warning.message);
        toast(words ? `${bot.name || bot.id} is launched. ${words}` : `${bot.name || bot.id} is launched.`, { tone: warning ? 'warn' : 'ok' });
        if (how === 'chat') go(`/chat/${encodeURIComponent(bot.id)}`);
      } catch (problem) {
        s.errors = serverErrors(problem);
        throw problem;
      }
    },
    onOpen: (dialog) => dialog.el.addEventListener('input', (e) => {
      if (!FIELDS.includes(e.target.name) || e.target.name === 'model') return;
      s[e.target.name] = e.target.value;
      delete s.errors[e.target.name];
      dialog.draw();
    }),
  });

  picker = modelPicker(d.el.querySelector('.picker'), {
    models: () => store.state.models.items, error: () => store.state.models.error, value: s.model,
    change: (name) => { s.model = name; delete s.errors.model; d.draw(); },
  });
  readModels().then(() => {
    if (!d.el.open) return;
    if (!s.model) {
      s.model = first(store.state.models.items);
      picker.set(s.model);
    } else picker.draw();
    d.draw();
  });
  d.el.querySelector('#l-name').focus();
}

function simulatedNote(name) {
  const model = store.state.models.items.find((m) => m.name === name);
  if (!(model?.simulated || /^(simulated$|sim:)/.test(name))) return '';
  return html`<p class="note t-warn">${icon('info', 't-warn')}<span>Simulated model. These answers are scripted.</span></p>`;
}
