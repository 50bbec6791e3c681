// Add a model server: name, address, slots. What the service refuses is shown at its field.

import * as api from '../api.js';
import { html } from '../html.js';
import { modelsSoon } from '../model-feeds.js';
import { slotsRefused } from '../model/servers.js';
import { store } from '../store.js';
import { field, kbd } from './controls.js';
import { openDialog } from './dialog.js';
import { toast } from './toast.js';

const FIELDS = ['name', 'url', 'slots'];
const MORE = { name: { hint: 'As people call it: letters, digits, - and _', ph: 'gpu-b' }, url: { hint: 'Where its Ollama answers', ph: 'http://10.0.4.12:11434' }, slots: { hint: 'How many turns may run there at once', ph: '1', mode: 'numeric' } };

/** The request that the form stands for. */
export function serverBody({ name, url, slots }) {
  return { name: name.trim(), url: url.trim(), ...(slots.trim() && { slots: Number(slots) }) };
}

/** What can be said without asking. */
function check({ name, url, slots }) {
  const errors = {};
  if (!name.trim()) errors.name = 'Give it a name.';
  if (!/^https?:\/\/\S+$/.test(url.trim())) errors.url = 'An address that begins with http:// or https://.';
  if (slotsRefused(slots)) errors.slots = slotsRefused(slots);
  return errors;
}

/** A refusal by field; one that names none belongs to the name where that is taken, else to the address. */
export function refusal(problem) {
  const errors = Object.fromEntries((problem.errors ?? []).filter((e) => FIELDS.includes(e.field)).map((e) => [e.field, e.reason]));
  if (!Object.keys(errors).length && problem.status >= 400 && problem.status < 500) errors[problem.status === 409 ? 'name' : 'url'] = problem.message;
  return errors;
}

export function openAddServer() {
  const s = { name: '', url: '', slots: '', errors: {} };
  const part = (name, label) => field({
    id: `s-${name}`, label, hint: MORE[name].hint, error: s.errors[name],
    control: html`<input id="${`s-${name}`}" name="${name}" .value="${s[name]}" placeholder="${MORE[name].ph}" autocomplete="off" spellcheck="false" inputmode="${MORE[name].mode ?? null}" aria-invalid="${s.errors[name] ? 'true' : null}" aria-describedby="${`s-${name}-h`}">`,
  });
  const refuse = (d, errors) => {
    s.errors = errors;
    d.draw();
    d.el.querySelector('[aria-invalid=true]')?.focus();
  };
  openDialog({
    title: 'Add a model server', cls: 'narrow', state: s,
    body: () => html`<div class="col g16">${part('name', 'Name')}${part('url', 'Address')}${part('slots', 'Slots')}</div>`,
    footer: ({ busy }) => html`<span class="grow"></span><button type="button" class="btn ghost" data-close>Cancel</button><button type="submit" class="btn primary" data-busy="${busy ? '1' : null}" ?disabled="${busy}"><span>Add</span>${kbd('Ctrl Enter')}</button>`,
    submit: async (d) => {
      const errors = check(s);
      if (Object.keys(errors).length) return refuse(d, errors);
      try {
        const server = await api.addServer(serverBody(s));
        store.dispatch({ type: 'server', server });
        modelsSoon();
        d.close();
        toast(`${server.name} is added.`);
      } catch (problem) {
        const at = refusal(problem);
        if (!Object.keys(at).length) throw problem;
        refuse(d, at);
      }
    },
    onOpen: (d) => d.el.addEventListener('input', (e) => {
      s[e.target.name] = e.target.value;
      delete s.errors[e.target.name];
      d.draw();
    }),
  });
}
