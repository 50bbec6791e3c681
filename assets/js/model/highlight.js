// Colours for code: comments, strings, numbers, words of the language, types. Small and the same for every language;
// a wrong guess costs a colour and never a character. Pure: the texts of the pieces joined are the input.

const WORDS = new Set(('as async await break case catch class const continue crate def default del delete do elif else enum except export extends false finally fn for from func function if impl import in interface is let loop match mod module move mut new nil none not null or package pass pub raise return self static struct super switch this throw trait true try type union unsafe use var void where while with yield and select insert update into values begin commit end').split(' '));
const HASH = new Set(['python', 'py', 'sh', 'bash', 'shell', 'toml', 'yaml', 'yml', 'ruby', 'rb', 'makefile', 'dockerfile', 'r', 'perl']);

export function highlight(code, lang = '') {
  const hash = HASH.has(lang.toLowerCase());
  const comment = hash ? '#[^\\n]*' : '\\/\\/[^\\n]*|\\/\\*[\\s\\S]*?(?:\\*\\/|$)|--[^\\n]*(?=\\n|$)';
  const source = `(?<com>${comment})|(?<str>"(?:\\\\.|[^"\\\\\\n])*"?|'(?:\\\\.|[^'\\\\\\n])*'|\`(?:\\\\.|[^\`\\\\])*\`?)|(?<num>\\b\\d[\\d_.a-fx]*\\b)|(?<word>[A-Za-z_]\\w*)`;
  const out = [];
  let last = 0;
  for (const m of code.matchAll(new RegExp(source, 'g'))) {
    const { com, str, num, word } = m.groups;
    const kind = com !== undefined ? 'com' : str !== undefined ? 'str' : num !== undefined ? 'num' : WORDS.has(word) ? 'key' : /^[A-Z][a-z]/.test(word) ? 'type' : null;
    if (!kind) continue;
    if (m.index > last) out.push({ kind: null, text: code.slice(last, m.index) });
    out.push({ kind, text: m[0] });
    last = m.index + m[0].length;
  }
  if (last < code.length) out.push({ kind: null, text: code.slice(last) });
  return out;
}
