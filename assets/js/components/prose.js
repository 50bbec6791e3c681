// Message text as DOM: finished messages from the server's HTML, running ones from the Markdown subset. Both end in
// the same structure, so the exchange at the end of an answer moves nothing.

import { html } from '../html.js';
import { highlight } from '../model/highlight.js';
import { blocks, nextBlock } from '../model/markdown.js';
import { safeLink, sanitized } from '../sanitized.js';
import { icon } from './icon.js';

const TAGS = { strong: 'strong', em: 'em', del: 'del' };

const el = (name, children = []) => {
  const node = document.createElement(name);
  node.append(...children);
  return node;
};

function spans(list) {
  return list.map((s) => {
    if (typeof s === 'string') return document.createTextNode(s);
    if (s.type === 'code') return el('code', [s.text]);
    if (s.type === 'link' && safeLink(s.href)) {
      const a = el('a', spans(s.children));
      Object.assign(a, { href: s.href, rel: 'noopener noreferrer nofollow', target: '_blank' });
      return a;
    }
    return el(TAGS[s.type] ?? 'span', spans(s.children));
  });
}

function blockNode(b) {
  switch (b.type) {
    case 'code': return codeFigure(b.text, b.lang);
    case 'rule': return el('hr');
    case 'heading': return heading(b.level, spans(b.inline));
    case 'quote': return el('blockquote', b.blocks.map(blockNode));
    case 'list': {
      const node = el(b.ordered ? 'ol' : 'ul', b.items.map((item) => el('li', item.length === 1 && item[0].type === 'text' ? spans(item[0].inline) : item.map(blockNode))));
      if (b.ordered && b.start !== 1) node.start = b.start;
      return node;
    }
    case 'table': {
      const cell = (name) => (inline, i) => {
        const c = el(name, spans(inline));
        if (b.align[i]) c.classList.add(`al-${b.align[i]}`);
        return c;
      };
      return tableBox(el('table', [el('thead', [el('tr', b.head.map(cell('th')))]), el('tbody', b.rows.map((r) => el('tr', r.map(cell('td')))))]));
    }
    default: return el('p', spans(b.inline));
  }
}

/** Headings of a message look by their own level, but all stand below that of the conversation: a text may skip levels. */
function heading(level, children) {
  const node = el('p', children);
  node.className = `h h${level}`;
  node.setAttribute('role', 'heading');
  node.setAttribute('aria-level', '3');
  return node;
}

function tableBox(table) {
  const box = el('div', [table]);
  box.className = 'tbox';
  box.tabIndex = 0;
  box.setAttribute('role', 'region');
  box.setAttribute('aria-label', 'Table');
  return box;
}

const codeText = (pre, text, lang) => pre.replaceChildren(...highlight(text, lang).map(({ kind, text: piece }) => {
  if (!kind) return document.createTextNode(piece);
  const span = el('span', [piece]);
  span.className = `c-${kind}`;
  return span;
}));

function codeFigure(text, lang) {
  const node = html`<figure class="code"><figcaption><span class="mono">${lang || 'text'}</span><button type="button" class="btn ghost sm right" data-action="chat.copyCode">${icon('copy')}<span>Copy</span></button></figcaption><pre tabindex="0" role="region" aria-label="${`Code, ${lang || 'text'}`}"></pre></figure>`.firstElementChild;
  codeText(node.querySelector('pre'), text, lang);
  return node;
}

/** A finished message: the server's rendering if there is one, else our own. */
export function finished(message) {
  const fragment = document.createDocumentFragment();
  if (!message.html) {
    fragment.append(...blocks(message.content ?? '').map(blockNode));
    return fragment;
  }
  fragment.append(sanitized(message.html));
  for (const pre of fragment.querySelectorAll('pre')) {
    const lang = pre.querySelector('code')?.dataset.lang ?? '';
    pre.replaceWith(codeFigure(pre.textContent.replace(/\n$/, ''), lang));
  }
  for (const table of fragment.querySelectorAll('table')) {
    const box = tableBox(table.cloneNode(true));
    table.replaceWith(box);
  }
  for (const h of fragment.querySelectorAll('h1, h2, h3, h4, h5, h6')) h.replaceWith(heading(Number(h.localName[1]), [...h.childNodes]));
  return fragment;
}

const REPARSE_MS = 50;

/**
 * Text while it streams into `host`: closed blocks are never touched again, only the last one is drawn again, at most
 * every 50 ms. `update(text)` takes the whole text so far.
 */
export class StreamView {
  #closed = 0;      // characters of the text that stand in closed blocks
  #open = null;     // the node of the block that still grows
  #text = '';
  #timer = 0;
  #last = 0;

  constructor(host, grown) {
    this.host = host;
    this.grown = grown;
    this.caret = el('span');
    this.caret.className = 'caret';
    this.caret.setAttribute('aria-hidden', 'true');
  }

  update(text) {
    if (text === this.#text && this.host.hasChildNodes()) return;
    if (!text.startsWith(this.#text)) this.#reset();
    this.#text = text;
    if (this.#timer) return;
    this.#timer = setTimeout(() => { this.#timer = 0; this.#draw(); }, Math.max(0, this.#last + REPARSE_MS - performance.now()));
  }

  #reset() {
    this.#closed = 0;
    this.#open = null;
    this.host.replaceChildren();
  }

  #draw() {
    this.#last = performance.now();
    for (let hit; (hit = nextBlock(this.#text, this.#closed));) {
      this.#put(hit.block);
      if (!hit.closed) break;
      this.#closed = hit.end;
      this.#open = null;
    }
    const last = this.host.lastElementChild;
    const into = last?.matches('.code') ? last.querySelector('pre') : last?.matches('ul, ol') ? last.lastElementChild ?? last : last?.matches('p') ? last : this.host;
    into.append(this.caret);
    this.grown?.();
  }

  #put(block) {
    const pre = block.type === 'code' && this.#open?.querySelector?.(':scope > pre');
    if (pre) {
      codeText(pre, block.text, block.lang); // the figure stays, so its scroll position does too
      return;
    }
    const node = blockNode(block);
    if (this.#open) this.#open.replaceWith(node);
    else this.host.append(node);
    this.#open = node;
  }

  stop() {
    clearTimeout(this.#timer);
  }
}
