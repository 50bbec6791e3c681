// Result of one's own action. 6 s; stays while hovered or focused.

import { html, element } from '../html.js';
import { icon } from './icon.js';

const SHOW_MS = 6000;
const ICONS = { ok: 'check', warn: 'warn', bad: 's-crashed' };
let region = null;

export function toast(text, { tone = 'ok' } = {}) {
  if (!region) {
    region = element(html`<div class="toasts" role="status" aria-live="polite"></div>`);
    document.body.append(region);
  }
  const el = element(html`<div class="toast">${icon(ICONS[tone], `t-${tone}`)}<p>${text}</p><button type="button" class="btn ghost only sm" aria-label="Close this note">${icon('x')}</button></div>`);
  let timer = 0;
  const wait = () => { timer = setTimeout(() => el.remove(), SHOW_MS); };
  const hold = () => clearTimeout(timer);
  for (const [name, handler] of Object.entries({ mouseenter: hold, focusin: hold, mouseleave: wait, focusout: wait })) el.addEventListener(name, handler);
  el.querySelector('button').addEventListener('click', () => el.remove());
  while (region.children.length > 2) region.firstChild.remove();
  // In a modal dialog everything outside is inert: the note goes where the reader is.
  (document.querySelector('dialog[open]') ?? document.body).append(region);
  region.append(el);
  wait();
}
