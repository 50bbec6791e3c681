// The Markdown subset for text that is still streaming: paragraphs, headings, lists, quotes, code, tables, rules;
// bold, italic, strike, code, links. Pure: text → data; nothing here makes HTML. What it does not know stays text.

const FENCE = /^ {0,3}(```+|~~~+)\s*([\w+#.-]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])\s+(.*)$/;
const QUOTE = /^ {0,3}>\s?(.*)$/;
const ROW = /^\s*\|.*\|?\s*$/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

const cells = (line) => line.trim().replace(/^\|/, '').replace(/\|$/, '').split('|').map((c) => c.trim());
const aligned = (line) => cells(line).map((c) => (/^:-+:$/.test(c) ? 'center' : /^-+:$/.test(c) ? 'right' : ''));

/**
 * Reads one block at `pos`: `{block, end, closed}`. `closed` means that later text can no longer change it, because a
 * blank line or another kind of block follows. Returns null at the end of the text.
 */
export function nextBlock(text, pos) {
  const start = /^(?:[ \t]*\n)*/.exec(text.slice(pos))[0].length + pos;
  if (start >= text.length) return null;
  const lines = [];
  let end = start;
  // Lines with their end offsets; the last one may still grow.
  const read = () => {
    const stop = text.indexOf('\n', end);
    const line = { text: text.slice(end, stop < 0 ? text.length : stop), whole: stop >= 0, end: stop < 0 ? text.length : stop + 1 };
    return line;
  };
  const take = (line) => { lines.push(line.text); end = line.end; };
  const first = read();

  const fence = FENCE.exec(first.text);
  if (fence) {
    take(first);
    while (end < text.length) {
      const line = read();
      if (line.text.trim().startsWith(fence[1]) && line.text.trim().replace(/[`~]/g, '') === '') {
        end = line.end;
        return { block: { type: 'code', lang: fence[2], text: lines.slice(1).join('\n') }, end, closed: line.whole };
      }
      take(line);
    }
    return { block: { type: 'code', lang: fence[2], text: lines.slice(1).join('\n') }, end, closed: false };
  }
  const single = (block) => ({ block, end: first.end, closed: first.whole });
  if (RULE.test(first.text)) return single({ type: 'rule' });
  const heading = HEADING.exec(first.text);
  if (heading) return single({ type: 'heading', level: heading[1].length, inline: inline(heading[2]) });

  const kind = QUOTE.test(first.text) ? 'quote' : ITEM.test(first.text) ? 'list' : ROW.test(first.text) ? 'table' : 'text';
  let closed = false;
  while (end < text.length) {
    const line = read();
    const blank = line.text.trim() === '';
    if (blank && kind === 'list') {
      // A blank line inside a list: it goes on if an item or an indented line follows.
      const after = /^(?:[ \t]*\n)+([^\n]*)/.exec(text.slice(end));
      if (!after) return done(false);
      if (!(sameList(first.text, after[1]) || /^ {2,}\S/.test(after[1]))) { closed = !MAY_BE_ITEM.test(after[1]); break; }
      end = line.end;
      continue;
    }
    if (blank) { closed = line.whole; break; }
    if (lines.length && breaks(kind, line.text, first.text)) {
      // A line that still grows may turn out to be something else.
      closed = line.whole || !(kind === 'table' || kind === 'quote' || RULE.test(line.text) || FENCE.test(line.text));
      break;
    }
    take(line);
  }
  return done(closed);

  function done(shut) {
    return { block: build(kind, lines), end, closed: shut };
  }
}

/** The start of a line that may still become an item of a list. */
const MAY_BE_ITEM = /^ {0,3}([-*+]|\d{1,9}[.)]?)?\s*$/;
const numbered = (line) => /^ {0,3}\d/.test(line);
const sameList = (a, b) => ITEM.test(b) && numbered(a) === numbered(b);

function breaks(kind, line, first) {
  if (FENCE.test(line) || HEADING.test(line)) return true;
  if (kind === 'text') return RULE.test(line) || QUOTE.test(line) || /^ {0,3}([-*+]|1[.)])\s+\S/.test(line);
  if (kind === 'table') return !ROW.test(line) && !line.includes('|');
  if (kind === 'list') return ITEM.test(line) && !/^ {2,}/.test(line) && !sameList(first, line);
  if (kind === 'quote') return !QUOTE.test(line) && (ITEM.test(line) || RULE.test(line));
  return false;
}

function build(kind, lines) {
  if (kind === 'quote') return { type: 'quote', blocks: blocks(lines.map((l) => QUOTE.exec(l)?.[1] ?? l).join('\n')) };
  if (kind === 'list') return list(lines);
  if (kind === 'table' && lines.length > 1 && DIVIDER.test(lines[1]) && cells(lines[0]).length === cells(lines[1]).length) {
    return { type: 'table', align: aligned(lines[1]), head: cells(lines[0]).map(inline), rows: lines.slice(2).map((l) => cells(l).map(inline)) };
  }
  return { type: 'text', inline: inline(lines.map((l) => l.trim()).join('\n')) };
}

function list(lines) {
  const ordered = /\d/.test(ITEM.exec(lines[0])[2]);
  const items = [];
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (item && (!items.length || item[1].length < 2)) items.push([item[3]]);
    else items.at(-1).push(line.replace(/^ {1,4}/, ''));
  }
  const start = ordered ? Number.parseInt(ITEM.exec(lines[0])[2], 10) : 1;
  return { type: 'list', ordered, start, items: items.map((text) => blocks(text.join('\n'))) };
}

/** All blocks of a whole text. */
export function blocks(text) {
  const out = [];
  for (let pos = 0, hit; (hit = nextBlock(text, pos)); pos = hit.end) out.push(hit.block);
  return out;
}

const SPANS = [
  [/^`+/, null],
  [/^(\*\*|__)(?=\S)([\s\S]*?\S)\1/, 'strong'],
  [/^(\*|_)(?=\S)([\s\S]*?[^\s*_])\1(?![\w*])/, 'em'],
  [/^(~~)(?=\S)([\s\S]*?\S)\1/, 'del'],
];
const LINK = /^\[([^\]\n]+)\]\((https?:\/\/[^\s()]+|mailto:[^\s()]+)\)/;
const BARE = /^https?:\/\/[^\s<>()[\]]*[^\s<>()[\].,;:!?'"]/;

/** Inline text → `[string | {type, children | text, href}]`. */
export function inline(text) {
  const out = [];
  let plain = '';
  const flush = () => { if (plain) out.push(plain); plain = ''; };
  const push = (node) => { flush(); out.push(node); };
  for (let i = 0; i < text.length;) {
    const rest = text.slice(i);
    const c = text[i];
    const wordBefore = /\w/.test(text[i - 1] ?? '');
    if (c === '\\' && /[\\`*_{}[\]()#+.!|~>-]/.test(text[i + 1] ?? '')) { plain += text[i + 1]; i += 2; continue; }
    if (c === '`') {
      const ticks = /^`+/.exec(rest)[0];
      const close = rest.indexOf(ticks, ticks.length);
      if (close > 0) { push({ type: 'code', text: rest.slice(ticks.length, close).replace(/\n/g, ' ').replace(/^ (.*\S.*) $/, '$1') }); i += close + ticks.length; continue; }
    }
    if ((c === '*' || c === '~' || (c === '_' && !wordBefore))) {
      const hit = SPANS.slice(1).map(([pattern, type]) => ({ type, m: pattern.exec(rest) })).find(({ m }) => m);
      if (hit) { push({ type: hit.type, children: inline(hit.m[2]) }); i += hit.m[0].length; continue; }
    }
    if (c === '[') {
      const m = LINK.exec(rest);
      if (m) { push({ type: 'link', href: m[2], children: inline(m[1]) }); i += m[0].length; continue; }
    }
    if (c === 'h' && !wordBefore) {
      const m = BARE.exec(rest);
      if (m) { push({ type: 'link', href: m[0], children: [m[0]] }); i += m[0].length; continue; }
    }
    plain += c;
    i += 1;
  }
  flush();
  return out;
}
