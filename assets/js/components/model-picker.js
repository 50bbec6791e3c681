// Model picker: a combobox over GET /api/models. Free text is allowed: a model may be pulled later.

import { bytes, int } from '../format.js';
import { element, html, patch } from '../html.js';
import { chip } from './controls.js';
import { icon } from './icon.js';

const facts = (m) => (m.simulated ? 'Scripted answers, no model needed' : [m.size ? bytes(m.size) : '', m.parameter_size, m.context_length ? `up to ${int(m.context_length)} tokens` : ''].filter(Boolean).join(', ') || 'no details');

const where = (m) => {
  const loaded = m.servers?.filter((s) => s.loaded) ?? [];
  if (loaded.length) return `loaded on ${loaded.map((s) => s.name).join(', ')}`;
  return m.servers?.length ? `on ${m.servers.map((s) => s.name).join(', ')}` : 'on no server';
};

/** Puts a picker into `host`; `change(name)` on every choice. Returns `{set}`. */
export function modelPicker(host, { models, value, error, change }) {
  let open = false;
  let active = -1;
  let typed = false;
  host.append(html`<div class="inp pick">${icon('models')}<input id="model" name="model" role="combobox" autocomplete="off" spellcheck="false" aria-autocomplete="list" aria-expanded="false" aria-controls="model-list" .value="${value}"><button type="button" class="btn ghost only sm" tabindex="-1" aria-label="Show all models">${icon('down')}</button></div><div class="pop inpop" hidden><div role="listbox" id="model-list" aria-label="Models"></div><p class="pop-f t3" role="status"></p></div>`);
  const input = host.querySelector('input');
  const pop = host.querySelector('.inpop');
  const list = host.querySelector('[role=listbox]');

  const hits = () => {
    const q = typed ? input.value.trim().toLowerCase() : '';
    return models().filter((m) => m.name.toLowerCase().includes(q));
  };
  const draw = () => {
    const found = hits();
    active = Math.min(active, found.length - 1);
    pop.hidden = !open;
    input.setAttribute('aria-expanded', String(open));
    if (open && active >= 0) input.setAttribute('aria-activedescendant', `model-${active}`);
    else input.removeAttribute('aria-activedescendant');
    patch(list, found.map((m, i) => html`<div class="opt mo" role="option" id="${`model-${i}`}" data-key="${m.name}" aria-selected="${String(i === active)}"><span class="mo-c">${m.name === input.value ? icon('check') : ''}</span><span class="grow"><b class="mono">${m.name}</b><span class="mo-d">${facts(m)}</span></span>${m.simulated ? chip('simulated', 'warn') : (m.capabilities ?? []).filter((c) => ['tools', 'vision', 'thinking'].includes(c)).map((c) => chip(c))}<span class="t3 mo-w">${where(m)}</span></div>`));
    const all = models().length;
    patch(host.querySelector('.pop-f'), error() ? `Models cannot be read: ${error()}` : found.length ? `${int(found.length)} of ${int(all)} match` : 'No server has this model. The bot can be launched all the same and answers once it is pulled.');
    list.querySelector('[aria-selected=true]')?.scrollIntoView({ block: 'nearest' });
  };
  const take = (i) => {
    const m = hits()[i];
    if (m) input.value = m.name;
    open = false;
    typed = false;
    change(input.value.trim());
    draw();
  };
  const show = (on) => { open = on; draw(); };

  input.addEventListener('input', () => { typed = true; open = true; active = hits().length ? 0 : -1; change(input.value.trim()); draw(); });
  input.addEventListener('click', () => show(true));
  input.addEventListener('keydown', (e) => {
    if (e.key === 'ArrowDown' || e.key === 'ArrowUp') {
      const n = hits().length;
      active = open && n ? (active + (e.key === 'ArrowDown' ? 1 : n - 1) + (active < 0 && e.key === 'ArrowUp' ? 1 : 0)) % n : Math.max(0, active);
      open = true;
      draw();
    } else if (e.key === 'Enter' && open && active >= 0 && !e.ctrlKey) take(active);
    else if (e.key === 'Escape' && open) { e.stopPropagation(); show(false); } else return;
    e.preventDefault();
  });
  input.addEventListener('blur', () => { open = false; typed = false; draw(); });
  host.querySelector('button').addEventListener('mousedown', (e) => { e.preventDefault(); input.focus(); typed = false; show(!open); });
  list.addEventListener('mousedown', (e) => {
    e.preventDefault(); // keeps the focus in the field
    const option = e.target.closest('[role=option]');
    if (option) take([...list.children].indexOf(option));
  });
  draw();
  return { draw, set: (name) => { input.value = name; draw(); }, element: element(host) };
}
