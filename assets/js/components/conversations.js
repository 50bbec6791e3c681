// The list of conversations, grouped by bot: open bots first with their conversations, then the others to open.

import { ago } from '../format.js';
import { html } from '../html.js';
import { stateGlyph } from './controls.js';
import { icon } from './icon.js';

const SHOWN = 12;
export const titleOf = (c) => c?.title || (c?.main ? 'Main conversation' : 'Untitled conversation');

const path = (botId, c) => `/chat/${encodeURIComponent(botId)}${c && !c.main ? `?c=${encodeURIComponent(c.id)}` : ''}`;

function item(bot, c, { current, chats }) {
  const unread = chats[c.id]?.unread;
  const on = c.id === current;
  return html`<li data-key="${c.id}" class="cv-li"><a href="${path(bot.id, c)}" class="cv ${on ? 'on' : ''}" aria-current="${on ? 'true' : null}" title="${titleOf(c)}"><span class="ell">${titleOf(c)}</span><span class="num t3">${unread && !on ? html`<span class="t-live">${unread} new</span>` : c.last_at && c.message_count ? ago(c.last_at).replace(' ago', '') : ''}</span></a>
    <button type="button" class="btn ghost only sm cv-m" data-action="chat.convMenu" data-arg="${`${bot.id} ${c.id}`}" aria-haspopup="menu" aria-label="${`Actions for ${titleOf(c)}`}">${icon('dots')}</button></li>`;
}

/** `view`: {filter, current (conversation id), open (bot ids), chats, conversations, bots}. */
export function conversationList(view) {
  const q = view.filter.trim().toLowerCase();
  const all = Object.values(view.bots).sort((a, b) => (a.name || a.id).localeCompare(b.name || b.id, 'en', { numeric: true }));
  const openBots = view.open.map((id) => view.bots[id]).filter(Boolean);
  const others = all.filter((b) => !view.open.includes(b.id) && (!q || `${b.name} ${b.id}`.toLowerCase().includes(q)));
  const group = (bot) => {
    const items = (view.conversations[bot.id] ?? []).filter((c) => !c.archived && (!q || titleOf(c).toLowerCase().includes(q) || (bot.name ?? '').toLowerCase().includes(q)));
    if (q && !items.length) return '';
    return html`<section data-key="${bot.id}"><h2 class="cv-b">${stateGlyph(bot.state)}<span class="ell">${bot.name || bot.id}</span><span class="mono t3">${bot.id}</span></h2><ul>${items.slice(0, q ? 50 : SHOWN).map((c) => item(bot, c, view))}</ul></section>`;
  };
  return html`<div class="insp-x"><h2>Conversations</h2><button type="button" class="btn ghost only sm" data-action="chat.list" aria-label="Close list">${icon('x')}</button></div>
    <div class="cvs-h"><div class="inp">${icon('search')}<input id="cv-filter" type="search" aria-label="Find a conversation or bot" placeholder="Find a conversation" autocomplete="off" .value="${view.filter}"></div></div>
    ${openBots.map(group)}
    ${others.length ? html`<section data-key="others"><h2 class="cv-b">Other bots</h2><ul>${others.slice(0, 40).map((b) => html`<li data-key="${b.id}"><a href="${path(b.id)}" class="cv bot">${stateGlyph(b.state)}<span class="ell">${b.name || b.id}</span></a></li>`)}</ul></section>` : ''}`;
}
