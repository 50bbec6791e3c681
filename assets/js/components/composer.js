// The composer: field, slash completion, context meter, Stop, Send. The draft survives reload; a message that could
// not be stored comes back here. Was it refused, it is marked "Not sent"; was no answer received, or a fault told, it may
// be stored all the same: it is marked "Perhaps not sent". Retry uses the same idempotency key, so it is stored once.

import { run } from '../actions.js';
import { short, within } from '../format.js';
import { element, html, patch } from '../html.js';
import { mayBeStored } from '../model/chat.js';
import { forget, recall, remember } from '../prefs.js';
import { store } from '../store.js';
import { actionButton, kbd, meter } from './controls.js';
import { icon } from './icon.js';

const LINES = 9;

export class Composer {
  #slash = { open: false, active: 0, hits: [] };
  #conversation = null;
  #facts = {};
  #edit = null; // {parent, before}: what is written will stand beside an earlier message; the draft before that

  constructor(host, { send }) {
    this.send = send;
    host.append(html`<div class="comp-w"><div class="slash-w"></div><div class="lost-w"></div><div class="edit-w"></div><form class="comp"><label for="msg" class="vh">Message</label><textarea id="msg" rows="2" readonly></textarea><div class="comp-f"></div></form><p class="comp-n">Enter sends, Shift Enter makes a new line</p></div>`);
    this.el = element(host.lastElementChild);
    this.field = this.el.querySelector('textarea');
    this.field.addEventListener('input', () => this.#typed());
    this.field.addEventListener('keydown', (e) => this.#key(e));
    this.field.addEventListener('blur', () => { this.#slash.open = false; this.#drawSlash(); });
    this.el.querySelector('form').addEventListener('submit', (e) => { e.preventDefault(); this.submit(); });
    this.el.addEventListener('mousedown', (e) => {
      const option = e.target.closest('[role=option]');
      if (!option) return;
      e.preventDefault();
      this.#take(Number(option.dataset.at));
    });
  }

  /** Shows the draft of a conversation. */
  open(conversationId) {
    if (this.#conversation === conversationId) return;
    this.#conversation = conversationId;
    this.#edit = null;
    this.field.readOnly = !conversationId; // what is written before it is known whose draft it is would be lost
    this.field.value = recall(`draft.${conversationId}`, '');
    this.#slash.open = false;
    this.#fit();
    this.#drawSlash();
  }

  /** `{running, offline, context, model, can, why}` */
  draw(facts) {
    this.#facts = facts;
    const lost = this.#lost();
    const c = facts.context;
    const percent = c?.num_ctx ? (c.used / c.num_ctx) * 100 : 0;
    this.field.placeholder = !facts.can ? facts.why : facts.offline ? 'Write a message. It is stored now and answered later' : facts.running ? 'Write the next message, it is queued behind this answer' : 'Write a message, / for commands';
    patch(this.el.querySelector('.edit-w'), this.#edit ? html`<div class="end edit">${icon('edit')}<span><b>Editing your message.</b> The earlier version and its answers stay beside it.</span><span class="right row"><button type="button" class="btn sm" data-action="chat.editEnd">${icon('x')}<span>Cancel</span>${kbd('Escape')}</button></span></div>` : '');
    patch(this.el.querySelector('.lost-w'), lost ? html`<div class="end t-bad lost" role="alert">${icon('s-crashed', 't-bad')}<span><b>${lost.unsure ? 'Perhaps not sent.' : 'Not sent.'}</b> ${lost.reason}<span aria-hidden="true">${lost.retryAt > Date.now() ? ` Try again ${within((lost.retryAt - Date.now()) / 1000)}.` : ''}</span></span><span class="right row"><button type="button" class="btn sm" data-action="chat.resend">${icon('restart')}<span>Retry</span></button></span></div>` : '');
    patch(this.el.querySelector('.comp-f'), html`<span class="comp-m mono t3 ell no-phone">${icon('models')}<span>${facts.model ?? ''}</span></span><span class="grow"></span>
      ${c?.num_ctx ? html`<button type="button" class="ctxm" data-action="chat.side" aria-label="${`Context ${short(c.used)} of ${short(c.num_ctx)} tokens${c.trimmed_messages ? `, ${c.trimmed_messages} messages trimmed` : ''}. About this turn`}"><span class="num">${short(c.used)} / ${short(c.num_ctx)}</span><span aria-hidden="true">${meter(percent, { tone: percent >= 80 || c.trimmed_messages ? 'warn' : 'ink', label: 'Context used', cls: 'thin' })}</span></button>` : ''}
      ${facts.running ? actionButton('chat.stop', { arg: facts.running.id, label: facts.running.stopping ? 'Stopping' : 'Stop', showKey: true }) : ''}
      <button type="submit" class="btn primary" aria-disabled="${facts.can ? null : 'true'}" title="${facts.can ? null : facts.why}">${icon('up1')}<span>${facts.offline ? 'Store and queue' : facts.running ? 'Queue' : 'Send'}</span>${kbd('Enter')}</button>`);
  }

  /** Puts an earlier message into the field, to be sent beside it. */
  edit(message) {
    this.#edit = { parent: message.parent_id, before: this.#edit?.before ?? this.field.value };
    this.#write(message.content);
    this.field.focus();
    this.field.setSelectionRange(this.field.value.length, this.field.value.length);
  }

  /** Leaves the message as it is; what was written before comes back. */
  editEnd() {
    const before = this.#edit?.before ?? '';
    this.#edit = null;
    this.#write(before);
    this.field.focus();
  }

  /** Sends what stands in the field, or the lost message again under its old key. */
  async submit() {
    const text = this.field.value.trim();
    if (!text || !this.#facts.can) return;
    const lost = this.#lost();
    const again = !this.#edit && lost?.text === text ? lost : null;
    const key = again?.key ?? crypto.randomUUID();
    const conversation = this.#conversation;
    const more = again?.more ?? (this.#edit ? { parent_id: this.#edit.parent } : {});
    const rest = this.#edit?.before ?? '';
    this.#edit = null;
    this.#write(rest);
    forget(`lost.${conversation}`);
    try {
      await this.send(conversation, text, key, more);
    } catch (error) {
      // Until it is known better, an attempt whose end nobody saw may have got through.
      remember(`lost.${conversation}`, { key, text, more, unsure: again?.unsure || mayBeStored(error), reason: error.message, retryAt: error.retryAfter ? Date.now() + error.retryAfter * 1000 : null });
      remember(`draft.${conversation}`, text);
      if (this.#conversation === conversation && this.field.value === rest) this.#write(text);
    }
  }

  focus() {
    this.field.focus();
  }

  #lost() {
    return recall(`lost.${this.#conversation}`, null);
  }

  #write(text) {
    this.field.value = text;
    this.#typed();
  }

  #typed() {
    if (this.field.value) remember(`draft.${this.#conversation}`, this.field.value);
    else forget(`draft.${this.#conversation}`);
    const typed = /^\/([a-z][a-z0-9-]*)?$/.exec(this.field.value);
    const hits = typed ? store.state.commands.filter((c) => c.name.startsWith(typed[1] ?? '')) : [];
    this.#slash = { open: hits.length > 0, active: 0, hits };
    this.#fit();
    this.#drawSlash();
  }

  #fit() {
    this.field.style.height = 'auto';
    const line = Number.parseFloat(getComputedStyle(this.field).lineHeight) || 22;
    this.field.style.height = `${Math.min(this.field.scrollHeight, line * LINES)}px`;
  }

  #key(e) {
    if (e.isComposing) return;
    const { open, hits } = this.#slash;
    if (open && (e.key === 'ArrowDown' || e.key === 'ArrowUp')) {
      this.#slash.active = (this.#slash.active + (e.key === 'ArrowDown' ? 1 : hits.length - 1)) % hits.length;
      this.#drawSlash();
    } else if (open && (e.key === 'Tab' || (e.key === 'Enter' && !e.shiftKey && `/${hits[this.#slash.active].name}` !== this.field.value))) {
      this.#take(this.#slash.active);
    } else if (open && e.key === 'Escape') {
      this.#slash.open = false;
      this.#drawSlash();
    } else if (e.key === 'Enter' && !e.shiftKey) {
      this.submit();
    } else if (e.key === 'Escape' && this.#edit) {
      run('chat.editEnd');
    } else if (e.key === 'ArrowUp' && !this.field.value) {
      run('chat.edit', '');
    } else if (e.key === 'Escape' && this.#facts.running) {
      run('chat.stop', this.#facts.running.id);
    } else return;
    e.preventDefault();
  }

  #take(at) {
    const command = this.#slash.hits[at];
    const args = /\s/.test(command.usage.trim());
    this.#write(`/${command.name}${args ? ' ' : ''}`);
    this.#slash.open = false;
    this.#drawSlash();
  }

  #drawSlash() {
    const { open, active, hits } = this.#slash;
    const typed = this.field.value;
    patch(this.el.querySelector('.slash-w'), open ? html`<div class="pop slash"><p class="pop-h">Commands that match <span class="mono">${typed}</span></p><div role="listbox" id="slash" aria-label="Commands">${hits.map((c, i) => html`<div class="opt" role="option" id="${`slash-${i}`}" data-at="${i}" data-key="${c.name}" aria-selected="${String(i === active)}"><b class="mono"><mark>${typed}</mark>${`/${c.name}`.slice(typed.length)}</b><span class="mono t3 nowrap">${c.usage.replace(/^\/\S+\s*/, '')}</span><span class="ell grow">${c.about}</span>${i === active ? kbd('Tab') : ''}</div>`)}</div></div>` : '');
    const set = (name, value) => (open ? this.field.setAttribute(name, value) : this.field.removeAttribute(name));
    set('aria-controls', 'slash');
    set('aria-autocomplete', 'list');
    set('aria-activedescendant', `slash-${active}`);
    this.el.querySelector('.slash-w [aria-selected=true]')?.scrollIntoView({ block: 'nearest' });
  }
}
