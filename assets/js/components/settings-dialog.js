// Theme, single keys, and who may use this page.

import { html } from '../html.js';
import { singleKeys } from '../keys.js';
import { remember, setTheme } from '../prefs.js';
import { openDialog } from './dialog.js';
import { icon } from './icon.js';

const CHOICES = [['system', 'System', 'screen'], ['dark', 'Dark', 'moon'], ['light', 'Light', 'sun']];

export function openSettings({ note, theme }) {
  const d = openDialog({
    title: 'Settings', cls: 'narrow', state: { theme },
    body: ({ state }) => html`<div class="col g16"><fieldset class="tms three"><legend>Theme</legend>${CHOICES.map(([value, label, ic]) => html`<label class="tm ${state.theme === value ? 'on' : ''}"><input type="radio" name="theme" value="${value}" ?checked="${state.theme === value}">${icon(ic)}<b>${label}</b></label>`)}</fieldset>
      <div class="row"><span class="grow"><b>Single-key shortcuts</b><span class="hint block">N, J, K, R and others act outside fields. Keys with Ctrl or Alt always work.</span></span><button type="button" role="switch" class="switch" aria-checked="${String(singleKeys())}" aria-label="Single-key shortcuts" data-keys><i></i></button><span class="t2 sw-t">${singleKeys() ? 'On' : 'Off'}</span></div>
      <p class="note">${icon('lock')}<span>${note}.</span></p></div>`,
    footer: () => html`<button type="button" class="btn ghost" data-action="app.shortcuts">${icon('key')}<span>All shortcuts</span></button><span class="grow"></span><button type="button" class="btn primary" data-close>Done</button>`,
  });
  d.el.addEventListener('change', (e) => {
    if (e.target.name !== 'theme') return;
    d.state.theme = e.target.value;
    setTheme(e.target.value);
    d.draw();
  });
  d.el.addEventListener('click', (e) => {
    if (!e.target.closest('[data-keys]')) return;
    remember('singleKeys', !singleKeys());
    d.draw();
  });
}
