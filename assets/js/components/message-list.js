// The scrolling list of messages: keyed, follows the end only for a reader who is there, loads older ones near the
// top without moving anything, and restores its place after a reload.

import { calmEta, int } from '../format.js';
import { html, list, patch } from '../html.js';
import { cutOf, isOver, isOwn } from '../model/chat.js';
import { held } from '../model/servers.js';
import { callsByTurn, isStep } from '../model/tools.js';
import { cutLine, messageView } from './message.js';
import { StreamView, finished } from './prose.js';
import { icon } from './icon.js';

const NEAR_END = 48;
const NEAR_TOP = 400;
const MANY = 200;
const LINE = 24;
const PLACES = 'deia.places';

function places() {
  try {
    return JSON.parse(sessionStorage.getItem(PLACES) ?? '{}');
  } catch {
    return {};
  }
}

export class MessageList {
  #chatId = null;
  #stick = true;
  #seen = 0;         // height that the reader has had in view
  #streams = new Map();
  #etas = new Map();
  #loading = false;
  #top = null;       // key of the first message, to notice older ones

  constructor(host, { older }) {
    this.older = older;
    host.append(html`<div class="msgs" tabindex="0" role="log" aria-live="off" aria-label="Messages"><div class="msgs-in"><div class="older" role="status"></div><div class="msgs-l"></div></div></div><div class="pill-w"></div>`);
    [this.box, this.inner, this.list, this.head, this.pill] = ['.msgs', '.msgs-in', '.msgs-l', '.older', '.pill-w'].map((s) => host.querySelector(s));
    this.box.addEventListener('scroll', () => this.#scrolled(), { passive: true });
    this.resize = new ResizeObserver(() => { if (this.#stick) this.#toEnd(); });
    this.resize.observe(this.box);
    this.leave = () => this.#remember();
    addEventListener('pagehide', this.leave);
  }

  end() {
    this.#remember();
    this.resize.disconnect();
    removeEventListener('pagehide', this.leave);
    for (const s of this.#streams.values()) s.stop();
  }

  /** Goes to the end and stays there. */
  follow() {
    this.#stick = true;
    this.#toEnd();
    this.#drawPill();
  }

  draw(chat, ctx) {
    if (chat?.id !== this.#chatId) this.#switch(chat);
    if (!chat) return;
    const last = chat.order.findLast?.((k) => k.startsWith('turn:'));
    const items = this.#items(chat);
    const before = this.box.scrollHeight - this.box.scrollTop;
    const grewAbove = this.#top !== null && chat.order.length && chat.order[0] !== this.#top && chat.order.includes(this.#top);
    this.list.classList.toggle('many', items.length > MANY);
    patch(this.head, chat.hasMore ? (this.#loading ? 'Reading older messages' : '') : chat.loaded && chat.order.length ? html`<span class="t3">Beginning of the conversation</span>` : '');
    list(this.list, items, {
      key: (i) => i.key,
      version: (i) => this.#version(i, ctx, last),
      render: (i) => (i.key === 'cut' ? cutLine(i.cut) : i.key === 'gap' ? html`<div class="cut"><span>Reloaded after a gap</span></div>` : messageView(i.key, i.message, i.turn, { ...ctx, calls: i.calls ?? [], last, own: isOwn(chat, i.message), shownEta: this.#eta(i.turn) })),
    });
    this.#fill(chat, ctx);
    this.#top = chat.order[0] ?? null;
    if (!this.restored && chat.loaded) this.#restore(chat.id);
    else if (this.#stick) this.#toEnd();
    else if (grewAbove) this.box.scrollTop = this.box.scrollHeight - before;
    this.#drawPill();
    if (chat.loaded && !chat.order.length && !chat.sending.length) patch(this.head, html`<div class="first"><p>${`Say something to ${ctx.name}.`}</p><p class="t3">Every message is stored before it is answered. / lists the commands.</p></div>`);
  }

  #switch(chat) {
    if (this.#chatId) this.#remember();
    this.#chatId = chat?.id ?? null;
    this.#stick = true;
    this.#top = null;
    this.restored = false;
    for (const s of this.#streams.values()) s.stop();
    this.#streams.clear();
    list(this.list, [], { key: (i) => i.key, version: () => '', render: () => null });
    this.#seen = 0;
  }

  #items(chat) {
    const calls = callsByTurn(chat);
    const cut = cutOf(chat);
    const items = chat.order.flatMap((key) => {
      const message = chat.messages[key];
      const turnId = key.startsWith('turn:') ? key.slice(5) : null;
      // The steps of a turn are shown in its reply; without the reply they stand for themselves.
      if (isStep(key, message) && `turn:${message.turn_id}` in chat.messages) return [];
      const item = { key, message, turn: turnId && chat.turns[turnId], calls: turnId ? calls.get(turnId) : message.sender === 'tool' ? calls.get(message.turn_id) : null };
      return cut?.before === key ? [{ key: 'cut', cut: cut.trimmed }, item] : [item];
    });
    if (chat.notice === 'gap') items.push({ key: 'gap' });
    return [...items, ...chat.sending.map((s) => ({ key: `sending:${s.key}`, message: { sender: 'user', content: s.content, sending: true }, turn: null }))];
  }

  #eta(turn) {
    if (!turn?.queue) return null;
    const next = calmEta(this.#etas.get(turn.id), turn.queue.eta_s);
    this.#etas.set(turn.id, next);
    return next;
  }

  #version({ key, message, turn, cut, calls }, ctx, last) {
    if (cut) return JSON.stringify(cut);
    if (!message) return '';
    const over = !turn || isOver(turn) || turn.state === 'ended';
    const clock = over ? '' : Math.floor(ctx.now / 500);
    return JSON.stringify([message.state, message.id, message.created_at, message.content?.length, Boolean(message.html), turn?.state, turn?.stopping, turn?.queue, turn?.full?.timings, turn?.full?.error?.detail, turn?.thoughtMs,
      over ? 0 : Boolean(turn.content.text), over ? 0 : turn.thinking.text.length, clock, !over && ctx.lost, !over && Boolean(held(turn.queue, ctx.servers, ctx.now)), calls?.map((c) => [c.id, c.running, c.took_ms, c.error, c.result?.length]), message.thinking?.length, ctx.name, key === last, ctx.busy, message.siblings, Math.floor(new Date(message.created_at ?? 0) / 1)]);
  }

  /** Puts the text into the places that the templates left for it. */
  #fill(chat, ctx) {
    for (const host of this.list.querySelectorAll('[data-html]')) {
      const key = host.dataset.html;
      const live = host.dataset.key?.endsWith(':live');
      if (live) {
        let stream = this.#streams.get(key);
        if (!stream || stream.host !== host) {
          stream?.stop();
          stream = new StreamView(host, () => { if (this.#stick) this.#toEnd(); else this.#drawPill(); });
          this.#streams.set(key, stream);
        }
        stream.caret.classList.toggle('off', Boolean(ctx.lost));
        stream.update(chat.turns[key.slice(5)]?.content.text ?? '');
        continue;
      }
      this.#streams.get(key)?.stop();
      this.#streams.delete(key);
      const message = chat.messages[key];
      if (!message || (host.shown === message.content && host.rendered === Boolean(message.html))) continue;
      host.shown = message.content;
      host.rendered = Boolean(message.html);
      host.replaceChildren(finished(message));
    }
  }

  #toEnd() {
    this.box.scrollTop = this.box.scrollHeight;
    this.#seen = this.box.scrollHeight;
  }

  #scrolled() {
    const left = this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight;
    this.#stick = left <= NEAR_END;
    this.#seen = Math.max(this.#seen, this.box.scrollTop + this.box.clientHeight);
    this.#drawPill();
    if (this.box.scrollTop < NEAR_TOP && !this.#loading && this.restored) {
      this.#loading = true;
      Promise.resolve(this.older()).catch(() => { /* the next scroll asks again */ }).finally(() => { this.#loading = false; });
    }
  }

  #drawPill() {
    const lines = this.#stick ? 0 : Math.max(0, Math.round((this.box.scrollHeight - this.#seen) / LINE));
    patch(this.pill, this.#stick ? '' : html`<button type="button" class="pill" data-action="chat.end">${icon('down')}<span>${lines ? `${int(lines)} new ${lines === 1 ? 'line' : 'lines'}, follow` : 'Follow the end'}</span></button>`);
  }

  #remember() {
    if (!this.#chatId) return;
    const all = places();
    if (this.#stick) delete all[this.#chatId];
    else all[this.#chatId] = this.box.scrollHeight - this.box.scrollTop;
    try {
      sessionStorage.setItem(PLACES, JSON.stringify(all));
    } catch { /* the place is not restored then */ }
  }

  #restore(id) {
    this.restored = true;
    const fromEnd = places()[id];
    if (fromEnd) this.box.scrollTop = this.box.scrollHeight - fromEnd;
    else this.#toEnd();
  }
}
