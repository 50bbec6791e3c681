// The picture of a gate: one box a slot, a line, numbered waiters. The sentence beside it says the same in words.

import { html } from '../html.js';

const BOXES = 16;   // slots that are drawn one by one
const WAITERS = 6;  // waiters that are drawn one by one

/** The numbers of the waiters to draw: where there are too many the last is kept. */
export const waiters = (depth) => Array.from({ length: Math.min(depth, WAITERS) }, (_, i) => (depth > WAITERS && i === WAITERS - 1 ? depth : i + 1));

/** `you` is one's own place in the line. */
export function gate({ busy, total, depth = 0, off = false, you = null }) {
  const boxes = Math.min(total, BOXES);
  const on = Math.ceil((busy * boxes) / Math.max(1, total));
  return html`<span class="slots" aria-hidden="true">${Array.from({ length: boxes }, (_, i) => html`<span class="${`slot ${off ? 'off' : i < on ? 'on' : ''}`}"></span>`)}<span class="gate"></span>${waiters(you ?? depth).map((n) => html`<span class="${`waiter ${n === you ? 'you' : ''}`}">${n === you ? 'You' : n}</span>`)}</span>`;
}
