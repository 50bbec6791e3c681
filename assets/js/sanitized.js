// The only place where text from the server is parsed as HTML: finished messages, rendered from Markdown and
// sanitised on the server (field `html`). It is parsed into an inert document and then only known elements and
// attributes are copied over, so a hole on either side alone opens nothing.

const ELEMENTS = new Set(['p', 'br', 'hr', 'em', 'i', 'strong', 'b', 'del', 's', 'code', 'pre', 'blockquote', 'ul', 'ol', 'li',
  'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'table', 'thead', 'tbody', 'tr', 'th', 'td', 'a', 'sup', 'sub', 'span', 'div', 'kbd', 'input']);
const LINK = /^(https?:|mailto:)/i;

/** True for addresses that a message may link to. */
export const safeLink = (href) => LINK.test(href.trim());

function copy(node) {
  if (node.nodeType === Node.TEXT_NODE) return document.createTextNode(node.data);
  if (node.nodeType !== Node.ELEMENT_NODE) return document.createDocumentFragment();
  const name = node.localName;
  if (!ELEMENTS.has(name)) {
    // Unknown elements vanish, what they contain stays; scripts and styles vanish with their content.
    const rest = document.createDocumentFragment();
    if (!['script', 'style', 'template', 'svg', 'math', 'iframe', 'object'].includes(name)) rest.append(...[...node.childNodes].map(copy));
    return rest;
  }
  const el = document.createElement(name);
  if (name === 'a' && safeLink(node.getAttribute('href') ?? '')) {
    el.href = node.getAttribute('href');
    el.rel = 'noopener noreferrer nofollow';
    el.target = '_blank';
  }
  if (name === 'ol' && /^\d+$/.test(node.getAttribute('start') ?? '')) el.start = Number(node.getAttribute('start'));
  if (name === 'input') {
    el.type = 'checkbox';
    el.disabled = true;
    el.checked = node.hasAttribute('checked');
    el.setAttribute('aria-label', el.checked ? 'Done' : 'Not done');
  }
  const language = /(?:^|\s)language-([\w+#.-]{1,40})/.exec(node.getAttribute('class') ?? '');
  if (name === 'code' && language) el.dataset.lang = language[1];
  const align = node.getAttribute('align') ?? /text-align:\s*(\w+)/.exec(node.getAttribute('style') ?? '')?.[1];
  if ((name === 'td' || name === 'th') && (align === 'right' || align === 'center')) el.classList.add(`al-${align}`);
  el.append(...[...node.childNodes].map(copy));
  return el;
}

/** Parses server-sanitised HTML into a fragment of this document. */
export function sanitized(text) {
  const parsed = new DOMParser().parseFromString(text, 'text/html');
  const fragment = document.createDocumentFragment();
  fragment.append(...[...parsed.body.childNodes].map(copy));
  return fragment;
}
