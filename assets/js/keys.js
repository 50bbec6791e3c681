// Keys from the table of actions. Single keys act only outside fields and can be switched off (WCAG 2.1.4).
// Notation: "N", "Shift X", "Ctrl Shift L", "G B" (a sequence), "Alt 1". Cmd stands for Ctrl on a Mac.

import { all, run } from './actions.js';
import { recall } from './prefs.js';

const MAC = /Mac|iPhone|iPad/.test(navigator.platform);
let prefix = '';
let prefixTimer = 0;

const inField = (el) => el?.closest?.('input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable]');

function pressed(e) {
  const parts = [];
  if (MAC ? e.metaKey : e.ctrlKey) parts.push('Ctrl');
  if (e.altKey) parts.push('Alt');
  const symbol = e.key.length === 1 && !/[a-z0-9 ]/i.test(e.key);
  if (e.shiftKey && !symbol) parts.push('Shift');
  const digit = /^Digit(\d)$/.exec(e.code)?.[1];
  parts.push(e.altKey && digit ? digit : e.key === ' ' ? 'Space' : e.key.length === 1 ? e.key.toUpperCase() : e.key);
  return parts.join(' ');
}

/** True between the keys of a sequence such as G B. */
export const inSequence = () => prefix !== '';

export const singleKeys = () => recall('singleKeys', true);

document.addEventListener('keydown', (e) => {
  if (e.defaultPrevented || e.isComposing || ['Shift', 'Control', 'Alt', 'Meta'].includes(e.key)) return;
  const key = pressed(e);
  const plain = !/^(Ctrl|Alt)/.test(key) && key !== 'Escape';
  if (plain && (inField(e.target) || !singleKeys())) return;
  if (document.querySelector('dialog[open], [popover]:popover-open')) return; // they have their own keys
  const wanted = prefix ? `${prefix} ${key}` : key;
  const actions = all().filter((a) => [a.key, ...(a.keys ?? [])].filter(Boolean).some((k) => k === wanted));
  for (const a of actions) {
    const arg = a.where ? a.where(e, key) : null;
    if (arg === undefined) continue;
    e.preventDefault();
    prefix = '';
    run(a.id, arg, e.target);
    return;
  }
  clearTimeout(prefixTimer);
  prefix = !prefix && all().some((a) => a.key?.startsWith(`${key} `)) ? key : '';
  prefixTimer = setTimeout(() => { prefix = ''; }, 1200);
});

/** "Ctrl Shift L" as it is printed on this machine. */
export const printed = (key) => key.replace('Ctrl', MAC ? '⌘' : 'Ctrl').replace('Enter', '↵').replace('Escape', 'Esc')
  .replace('ArrowUp', '↑').replace('ArrowDown', '↓').replace('ArrowLeft', '←').replace('ArrowRight', '→');
