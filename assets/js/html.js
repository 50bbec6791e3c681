// Templates and DOM patching.
//
// html`…` parses only its static strings, once per call site; values never pass through a parser. A value in a
// text position becomes a text node (or the node itself), a value in an attribute becomes exactly that attribute.
// Attribute prefixes: `?name` = boolean, `.name` = property, `style:name` = one CSSOM property (allowed by a strict
// CSP). Templates hold no listeners: elements carry `data-action`, see actions.js.
//
// patch() makes existing children equal to new ones in place, so focus, scroll and animations survive.
// Elements with `data-own` belong to a component: patch leaves them alone.

const templates = new WeakMap();
const PROPS = Symbol('props');
const STYLES = Symbol('styles');
const MARK = 'deia-hole:';
const HOLE = /deia-hole:(\d+);/;

/** Whether the end of a piece of source stands inside a tag; a ">" in a quoted attribute does not count. */
const inTag = (source) => /<[a-z][^<>"]*(?:"[^"]*"[^<>"]*)*(?:"[^"]*)?$/i.test(source);

function compile(strings, wrap) {
  let source = '';
  strings.forEach((text, i) => {
    source += text;
    if (i === strings.length - 1) return;
    source += inTag(source) ? `${MARK}${i};` : `<!--${MARK}${i};-->`;
  });
  const template = document.createElement('template');
  template.innerHTML = wrap ? `<svg>${source.trim()}</svg>` : source.trim(); // source text of this program, never data
  const parts = [];
  const walker = document.createTreeWalker(template.content, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_COMMENT);
  for (let index = 0; walker.nextNode(); index += 1) {
    const node = walker.currentNode;
    if (node.nodeType === Node.COMMENT_NODE) {
      const hole = HOLE.exec(node.data);
      if (hole) parts.push({ index, value: Number(hole[1]) });
      continue;
    }
    for (const { name, value } of [...node.attributes]) {
      if (!HOLE.test(value)) continue;
      const pieces = value.split(/deia-hole:(\d+);/);
      parts.push({ index, name, pieces });
      node.removeAttribute(name);
    }
  }
  return { template, parts };
}

function setPart(el, name, value) {
  if (name.startsWith('?')) {
    el.toggleAttribute(name.slice(1), Boolean(value));
  } else if (name.startsWith('.')) {
    el[name.slice(1)] = value;
    (el[PROPS] ??= {})[name.slice(1)] = value;
  } else if (name.startsWith('style:')) {
    el.style.setProperty(name.slice(6), value);
    (el[STYLES] ??= {})[name.slice(6)] = String(value);
  } else if (value !== null && value !== undefined && value !== false) {
    el.setAttribute(name, value === true ? '' : value);
  }
}

function instantiate(strings, values, wrap) {
  let entry = templates.get(strings);
  if (!entry) templates.set(strings, entry = compile(strings, wrap));
  const fragment = document.importNode(entry.template.content, true);
  const walker = document.createTreeWalker(fragment, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_COMMENT);
  const found = [];
  let index = -1;
  for (const part of entry.parts) {
    while (index < part.index) {
      walker.nextNode();
      index += 1;
    }
    found.push(walker.currentNode);
  }
  entry.parts.forEach((part, i) => {
    if (part.name === undefined) {
      found[i].replaceWith(nodes(values[part.value]));
      return;
    }
    const { pieces } = part;
    const single = pieces.length === 3 && pieces[0] === '' && pieces[2] === '';
    const value = single ? values[Number(pieces[1])]
      : pieces.map((piece, n) => (n % 2 ? values[Number(piece)] ?? '' : piece)).join('');
    setPart(found[i], part.name, value);
  });
  return fragment;
}

/** Anything that may stand in a template as a fragment: text, number, node, array, or nothing. */
function nodes(value) {
  if (value instanceof Node) return value;
  const fragment = document.createDocumentFragment();
  if (Array.isArray(value)) fragment.append(...value.map(nodes));
  else if (value !== null && value !== undefined && value !== false && value !== true) fragment.append(String(value));
  return fragment;
}

export const html = (strings, ...values) => instantiate(strings, values, false);

/** The same for children of an `<svg>`. */
export function svg(strings, ...values) {
  const wrapped = instantiate(strings, values, true);
  const fragment = document.createDocumentFragment();
  fragment.append(...wrapped.firstChild.childNodes);
  return fragment;
}

/** The first element of a template. */
export const element = (content) => (content instanceof DocumentFragment ? content.firstElementChild : content);

function morphNode(old, next) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== next.data) old.data = next.data;
    return;
  }
  if (old.hasAttribute('data-own')) return;
  const kept = (name) => name === 'style' || (name === 'open' && old.localName === 'details'); // what a reader opened or closed stays so
  for (const { name } of [...old.attributes]) if (!kept(name) && !next.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of next.attributes) {
    if (!kept(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const styles = next[STYLES];
  if (styles) {
    for (const [name, value] of Object.entries(styles)) {
      if (old[STYLES]?.[name] !== value) old.style.setProperty(name, value);
    }
    old[STYLES] = styles;
  }
  const props = next[PROPS];
  if (props) {
    for (const [name, value] of Object.entries(props)) if (old[name] !== value) old[name] = value;
    old[PROPS] = props;
  }
  morphChildren(old, next);
}

const keyOf = (node) => (node.nodeType === Node.ELEMENT_NODE ? node.getAttribute('data-key') : null);
const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);

function morphChildren(parent, next) {
  const wanted = [...next.childNodes];
  const keep = new Set(wanted.map(keyOf).filter((key) => key !== null));
  const keyed = new Map();
  for (const child of [...parent.childNodes]) {
    const key = keyOf(child);
    if (key === null) continue;
    if (keep.has(key)) keyed.set(key, child);
    else child.remove();
  }
  let cursor = parent.firstChild;
  for (const want of wanted) {
    const key = keyOf(want);
    let match = key === null ? null : keyed.get(key);
    if (match && match.nodeName !== want.nodeName) match = null;
    if (!match && key === null && cursor && alike(cursor, want)) match = cursor;
    if (!match) {
      parent.insertBefore(want, cursor);
      continue;
    }
    if (match === cursor) cursor = cursor.nextSibling;
    else parent.insertBefore(match, cursor);
    morphNode(match, want);
  }
  while (cursor) {
    const after = cursor.nextSibling;
    cursor.remove();
    cursor = after;
  }
}

/** Makes the children of `parent` equal to `content`, touching only what differs. */
export function patch(parent, content) {
  const next = document.createElement('div');
  next.append(nodes(content));
  morphChildren(parent, next);
}

const lists = new WeakMap();

/**
 * Keeps the children of `parent` equal to `items`, keyed. An item is rendered again only when `version(item)`
 * differs from the last time, so one event on a page of 500 nodes touches one of them.
 */
export function list(parent, items, { key, version, render }) {
  let known = lists.get(parent);
  if (!known) {
    lists.set(parent, known = new Map());
    parent.replaceChildren();
  }
  const seen = new Set();
  let cursor = parent.firstChild;
  for (const item of items) {
    const id = key(item);
    const stamp = version(item);
    seen.add(id);
    let entry = known.get(id);
    if (!entry) {
      entry = { node: element(render(item)), stamp };
      known.set(id, entry);
    } else if (entry.stamp !== stamp) {
      entry.stamp = stamp;
      morphNode(entry.node, element(render(item)));
    }
    if (entry.node === cursor) cursor = cursor.nextSibling;
    else parent.insertBefore(entry.node, cursor);
  }
  for (const [id, entry] of known) {
    if (seen.has(id)) continue;
    entry.node.remove();
    known.delete(id);
  }
}
