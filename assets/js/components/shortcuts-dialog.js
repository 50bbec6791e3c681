// All shortcuts. Those of the page that is open come from the table of actions; those of the other pages, whose
// actions are not registered now, from the list below.

import { all, labelOf } from '../actions.js';
import { html } from '../html.js';
import { singleKeys } from '../keys.js';
import { kbd } from './controls.js';
import { openDialog } from './dialog.js';

// Keys that belong to a control and not to an action.
const FIXED = [
  ['Everywhere', 'Escape', 'Close, or stop the answer in a chat'],
  ['Lists', 'Enter', 'Open'],
  ['Chat', 'Enter', 'Send'], ['Chat', 'Shift Enter', 'New line'], ['Chat', '/', 'Commands, in an empty field'], ['Chat', 'Tab', 'Take the chosen command'],
  ['Supervision', 'ArrowLeft  ArrowRight', 'Parent or fold, first child'], ['Supervision', 'ArrowUp  ArrowDown', 'Previous, next actor'], ['Supervision', 'a to z', 'Find by name'],
];
const ELSEWHERE = [
  ['Bots', 'N', 'Launch a bot'],
  ['Lists', 'J', 'Next row'], ['Lists', 'K', 'Previous row'], ['Lists', '.', 'Actions of the row'],
  ['Chat', 'C', 'Copy message'], ['Chat', 'End', 'Follow the answer'], ['Chat', 'Alt 1 to 9', 'Tab 1 to 9'], ['Chat', 'Alt W', 'Close tab'], ['Chat', 'Ctrl Shift O', 'New conversation'],
  ['Supervision', 'N', 'Next trouble'], ['Supervision', 'P', 'Previous trouble'], ['Supervision', 'R', 'Restart'], ['Supervision', 'K', 'Kill, with confirmation'], ['Supervision', 'Space', 'Live or pause'],
];
const ORDER = ['Everywhere', 'Bots', 'Lists', 'Chat', 'Supervision'];

export function openShortcuts() {
  const here = all().filter((a) => a.key && a.group).map((a) => [a.group, a.keyHelp ?? a.key, a.help ?? labelOf(a)]);
  const elsewhere = ELSEWHERE.filter(([group, key]) => !here.some(([g, k]) => g === group && k === key));
  const rows = [...here, ...FIXED, ...elsewhere];
  const groups = ORDER.map((name) => [name, rows.filter(([group]) => group === name)]).filter(([, list]) => list.length);
  openDialog({
    title: 'Keyboard', cls: 'keys', aside: singleKeys() ? 'single keys can be switched off in Settings' : 'single keys are switched off in Settings',
    body: () => html`<div class="kg" tabindex="0" role="region" aria-label="Shortcuts">${groups.map(([name, list]) => html`<section><h3>${name}</h3><dl>${list.map(([, key, help]) => html`<div><dt>${key.split('  ').map((k) => html`${kbd(k)} `)}</dt><dd>${help}</dd></div>`)}</dl></section>`)}</div>`,
  });
}
