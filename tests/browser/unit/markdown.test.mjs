import assert from 'node:assert/strict';
import { test } from 'node:test';
import { highlight } from '../../../assets/js/model/highlight.js';
import { blocks, inline, nextBlock } from '../../../assets/js/model/markdown.js';

const TEXT = `# Title

A paragraph with **bold**, *it*, \`code\` and [a link](https://example.org/x).
Second line.

- one
- two
  - nested

1. first
2. second

| a | b |
|---|--:|
| 1 | 2 |

> quoted
> text

\`\`\`rust
let x = 1;

// "still code"
\`\`\`

---

end`;

test('every kind of block is recognised', () => {
  assert.deepEqual(blocks(TEXT).map((b) => b.type), ['heading', 'text', 'list', 'list', 'table', 'quote', 'code', 'rule', 'text']);
});

test('code keeps its text to the byte', () => {
  const code = blocks(TEXT).find((b) => b.type === 'code');
  assert.equal(code.lang, 'rust');
  assert.equal(code.text, 'let x = 1;\n\n// "still code"');
});

test('a closed block never changes, however the rest arrives', () => {
  const final = blocks(TEXT);
  for (let n = 1; n <= TEXT.length; n += 1) {
    const seen = [];
    for (let pos = 0, hit; (hit = nextBlock(TEXT.slice(0, n), pos)); pos = hit.end) {
      if (!hit.closed) break;
      seen.push(hit.block);
    }
    assert.deepEqual(seen, final.slice(0, seen.length), `after ${n} characters`);
  }
});

test('blocks always move forward, also on hostile text', () => {
  for (const text of ['```', '|', '> ', '- ', '\n\n\n', '***', '1.', '`'.repeat(5), '| a\n|--', '-\n-\n', '  \n- a\n\n\n  b']) {
    let pos = 0;
    for (let i = 0; i < 50; i += 1) {
      const hit = nextBlock(text, pos);
      if (!hit) break;
      assert.ok(hit.end > pos, JSON.stringify(text));
      pos = hit.end;
    }
  }
});

test('links only to web and mail addresses', () => {
  const [link] = inline('[x](javascript:alert(1))');
  assert.equal(link, '[x](javascript:alert(1))');
  assert.equal(inline('[x](https://a.b/)')[0].href, 'https://a.b/');
  assert.equal(inline('see https://a.b/c, then')[1].href, 'https://a.b/c');
});

test('text that is no markup stays as it is', () => {
  for (const text of ['snake_case_name', '2 * 3 * 4', '<script>alert(1)</script>', 'a ** b', '`open']) assert.deepEqual(inline(text), [text]);
});

test('highlighting loses no character', () => {
  for (const code of ['let x = "a\\"b"; // c', '# py\nprint(\'x\')', 'SELECT 1 -- x\nFROM t', '/* open', '"unclosed', '世界 = 1']) {
    assert.equal(highlight(code, 'rust').map((p) => p.text).join(''), code);
    assert.equal(highlight(code, 'python').map((p) => p.text).join(''), code);
  }
});
