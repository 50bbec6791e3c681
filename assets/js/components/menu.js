// A menu of actions beside its button: a popover with arrow keys, letters, Home, End and Esc.

import { action, labelOf, possible, run } from '../actions.js';
import { element, html } from '../html.js';
import { printed } from '../keys.js';
import { icon } from './icon.js';

export function openMenu(anchor, label, ids, arg) {
  const items = ids.filter((id) => action(id));
  const el = element(html`<div class="pop menu" popover="auto" role="menu" aria-label="${label}">${items.map((id) => {
    const a = action(id);
    const ok = possible(id, arg);
    return html`<button type="button" role="menuitem" class="opt ${a.danger ? 'bad' : ''}" tabindex="-1" data-item="${id}" aria-disabled="${ok === true ? null : 'true'}" title="${ok === true ? null : ok || 'Not possible now'}">${icon(a.icon)}<span class="grow">${labelOf(a, arg)}</span>${a.key ? html`<kbd>${printed(a.key)}</kbd>` : ''}</button>`;
  })}</div>`);
  const buttons = [...el.querySelectorAll('button')];
  el.addEventListener('click', (e) => {
    const id = e.target.closest('[data-item]')?.dataset.item;
    if (!id) return;
    e.stopPropagation();
    el.hidePopover();
    anchor.focus();
    run(id, arg, anchor);
  });
  el.addEventListener('keydown', (e) => {
    const at = buttons.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1 + buttons.length, Home: 0, End: buttons.length - 1 }[e.key];
    const letter = e.key.length === 1 ? buttons.findIndex((b, i) => i > at && b.textContent.trim().toLowerCase().startsWith(e.key.toLowerCase())) : -1;
    if (to !== undefined) buttons[to % buttons.length].focus();
    else if (letter >= 0) buttons[letter].focus();
    else if (e.key === 'Tab') el.hidePopover();
    else return;
    e.preventDefault();
  });
  el.addEventListener('toggle', (e) => {
    if (e.newState !== 'closed') return;
    el.remove();
    anchor.removeAttribute('aria-expanded');
    if (!document.activeElement || document.activeElement === document.body) anchor.focus();
  });
  document.body.append(el);
  anchor.setAttribute('aria-expanded', 'true');
  el.showPopover();
  const box = anchor.getBoundingClientRect();
  const { offsetWidth: w, offsetHeight: h } = el;
  el.style.left = `${Math.max(8, Math.min(innerWidth - w - 8, box.right - w))}px`;
  el.style.top = `${box.bottom + h + 8 > innerHeight ? Math.max(8, box.top - h - 4) : box.bottom + 4}px`;
  buttons[0]?.focus();
}
