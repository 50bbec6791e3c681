// Open conversations as tabs: state, bot, title, queue place or "1 new".

import { ordinal } from '../format.js';
import { html } from '../html.js';
import { runningTurn } from '../model/chat.js';
import { actionButton, stateGlyph } from './controls.js';
import { titleOf } from './conversations.js';
import { icon } from './icon.js';

function mark(chat, on) {
  const turn = runningTurn(chat);
  if (turn?.state === 'queued' && turn.queue?.position) return html`<span class="tab-n t-warn">${ordinal(turn.queue.position)}</span>`;
  return chat?.unread && !on ? html`<span class="tab-n t-live">${chat.unread} new</span>` : '';
}

/** `tabs`: [{key, bot, botId, conversation, chat}] */
export function chatTabs(tabs, current) {
  return html`<div role="tablist" aria-label="Open conversations" class="tabl">${tabs.map((t, i) => {
    const on = t.key === current;
    const turn = runningTurn(t.chat);
    const state = turn?.state === 'queued' ? 'queued' : turn?.state === 'generating' ? 'processing' : t.bot?.state ?? 'terminated';
    return html`<button type="button" role="tab" id="${`tab-${i}`}" data-key="${t.key}" data-action="chat.tab" data-arg="${t.key}" aria-selected="${String(on)}" tabindex="${on ? '0' : '-1'}" aria-controls="${on ? 'conv' : null}" class="tab">${stateGlyph(state)}<span class="ell"><b>${t.bot?.name || t.botId}</b> <span class="t3">${t.conversation ? titleOf(t.conversation) : ''}</span></span>${mark(t.chat, on)}</button>`;
  })}</div>${actionButton('chat.new', { only: true, sm: true, kind: 'ghost' })}<span class="grow"></span>
    <button type="button" class="btn ghost only sm list-b" data-action="chat.list" aria-label="Conversations" title="Conversations">${icon('menu')}</button>
    <button type="button" class="btn ghost only sm side-b" data-action="chat.side" aria-label="About this turn" title="About this turn">${icon('info')}</button>
    ${actionButton('chat.close', { only: true, sm: true, kind: 'ghost no-phone' })}`;
}

// Arrow keys move between tabs, as in the APG pattern with manual choice left out: the tab follows the focus.
document.addEventListener('keydown', (e) => {
  const tab = e.target.closest?.('[role=tab]');
  if (!tab || !['ArrowLeft', 'ArrowRight', 'Home', 'End'].includes(e.key)) return;
  const all = [...tab.parentElement.querySelectorAll('[role=tab]')];
  const at = all.indexOf(tab);
  const next = { ArrowLeft: all.at(at - 1), ArrowRight: all[(at + 1) % all.length], Home: all[0], End: all.at(-1) }[e.key];
  e.preventDefault();
  next.click();
  requestAnimationFrame(() => requestAnimationFrame(() => document.querySelector('[role=tab][aria-selected=true]')?.focus()));
});
