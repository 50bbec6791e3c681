// Modal dialogs: <dialog>.showModal(), focus to the first field, Esc closes, focus goes back to the opener.

import { element, html, patch } from '../html.js';
import { int } from '../format.js';
import { icon } from './icon.js';

/**
 * Opens a dialog. `body(d)` and `footer(d)` are templates, drawn again by `d.draw()`. `submit(d)` runs on Enter in a
 * field and on the primary button; while it runs the button is busy. Problems are shown in the dialog.
 */
export function openDialog({ title, aside = '', cls = '', role = 'dialog', lead, body, footer, submit, onOpen, state = {} }) {
  const opener = document.activeElement;
  const el = element(html`<dialog class="dlg ${cls}" role="${role}" aria-labelledby="dlg-title"><form class="dlg-form" novalidate>
    <div class="dlg-h">${lead ?? ''}<h2 id="dlg-title">${title}</h2><span class="t3">${aside}</span><button type="button" class="btn ghost only" aria-label="Close" title="Close (Esc)" data-close>${icon('x')}</button></div>
    <div class="dlg-b" tabindex="-1"></div><div class="dlg-f"></div></form></dialog>`);
  const d = {
    el, state, busy: false, error: null,
    draw() {
      patch(el.querySelector('.dlg-b'), html`${d.error ? html`<p class="note t-bad" role="alert">${icon('s-crashed', 't-bad')}<span>${d.error}</span></p>` : ''}${body(d)}`);
      if (footer) patch(el.querySelector('.dlg-f'), footer(d));
      el.querySelector('.dlg-f').hidden = !footer;
      return d;
    },
    close() { el.close(); },
    async submit(how) {
      if (d.busy || !submit) return;
      d.busy = true;
      d.error = null;
      d.draw();
      try {
        await submit(d, how);
      } catch (error) {
        d.error = explain(error);
        d.problem = error;
      }
      d.busy = false;
      if (el.open) d.draw();
    },
  };
  el.addEventListener('click', (e) => { if (e.target === el || e.target.closest('[data-close]')) d.close(); });
  el.querySelector('form').addEventListener('submit', (e) => {
    e.preventDefault();
    d.submit(e.submitter?.value);
  });
  el.addEventListener('keydown', (e) => {
    if (e.key !== 'Enter' || !(e.ctrlKey || e.metaKey)) return;
    e.preventDefault();
    d.submit();
  });
  el.addEventListener('close', () => {
    el.remove();
    if (opener?.isConnected) opener.focus({ preventScroll: true });
  });
  document.body.append(el);
  d.draw();
  el.showModal();
  el.querySelector('[autofocus], .dlg-b input, .dlg-b textarea, .dlg-f button')?.focus();
  onOpen?.(d);
  return d;
}

/** What a problem means for the person, with the wait if there is one. */
export const explain = (error) => `${error.message}${error.retryAfter ? ` Try again in ${int(error.retryAfter)} s.` : ''}`;

/**
 * A guarded action: what will happen, an optional reason, tick or choice, and the id typed to confirm. The danger button stays off
 * until it matches.
 */
export function guard({ title, ic, consequences, reason, id, hint, confirm, extra, choice, run }) {
  return openDialog({
    title, role: 'alertdialog', cls: 'narrow', lead: icon(ic, 't-bad'),
    state: { typed: '', reason: '', extra: false, choice: '' },
    body: (d) => html`<div class="col g16"><ul class="cons">${consequences.map(([i, text]) => html`<li>${icon(i)}<span>${text}</span></li>`)}</ul>
      ${reason ? html`<div class="field"><label for="g-reason">${reason}</label><div class="inp"><input id="g-reason" name="reason" maxlength="200" autocomplete="off" .value="${d.state.reason}"></div></div>` : ''}
      ${extra ? html`<label class="tick"><input type="checkbox" class="cb" name="extra" ?checked="${d.state.extra}"><span>${extra}</span></label>` : ''}
      ${choice ? html`<div class="field"><label for="g-choice">${choice.label}</label><div class="inp sel"><select id="g-choice" name="choice">${choice.options.map(([value, label]) => html`<option value="${value}" ?selected="${d.state.choice === value}">${label}</option>`)}</select></div></div>` : ''}
      <div class="field"><label for="g-id">Type <code>${id}</code> to confirm</label><div class="inp"><input id="g-id" name="typed" autocomplete="off" spellcheck="false" .value="${d.state.typed}" aria-describedby="g-id-h"></div><p class="hint" id="g-id-h">${hint}</p></div></div>`,
    footer: (d) => html`<span class="grow"></span><button type="button" class="btn ghost" data-close>Cancel</button><button type="submit" class="btn danger" ?disabled="${d.state.typed !== id || d.busy}" data-busy="${d.busy ? '1' : null}">${confirm}</button>`,
    onOpen: (d) => d.el.addEventListener('input', (e) => {
      d.state[e.target.name] = e.target.type === 'checkbox' ? e.target.checked : e.target.value;
      d.draw();
    }),
    submit: async (d) => {
      if (d.state.typed !== id) return;
      await run(d.state);
      d.close();
    },
  });
}
