// One table of actions. Buttons, menus and keys all come from here: label, icon, key, when it is possible, what it
// does. An element with data-action="id" (and data-arg) runs it; a refused one says why and stays focusable.

import { toast } from './components/toast.js';

const table = new Map();

/**
 * Adds actions: `{id: {label, icon, key?, where?, can?, run}}`. `can(arg)` answers true or the reason why not;
 * `where` limits the key to a page or gives the current target (`where()` → arg or undefined).
 * Returns a function that takes them out again.
 */
export function register(actions) {
  for (const [id, action] of Object.entries(actions)) table.set(id, { id, ...action });
  return () => { for (const id of Object.keys(actions)) table.delete(id); };
}

export const action = (id) => table.get(id);
export const all = () => [...table.values()];

export const labelOf = (a, arg) => (typeof a.label === 'function' ? a.label(arg) : a.label);

/** True, or the reason why not. */
export const possible = (id, arg) => {
  const a = table.get(id);
  return a?.can ? a.can(arg) : Boolean(a);
};

/** Runs an action; problems become a toast, so no failure is silent. */
export async function run(id, arg, from) {
  const a = table.get(id);
  if (!a) return;
  const ok = possible(id, arg);
  if (ok !== true) {
    if (ok) toast(ok, { tone: 'warn' });
    return;
  }
  try {
    await a.run(arg, from);
  } catch (error) {
    toast(error.message, { tone: 'bad' });
  }
}

document.addEventListener('click', (e) => {
  const el = e.target.closest?.('[data-action]');
  if (!el || el.closest('[inert]')) return;
  e.preventDefault();
  run(el.dataset.action, el.dataset.arg, el);
});
