// What this browser remembers: theme, open chat tabs, drafts, key preference. Everything degrades to
// memory when storage is off or full.

const PREFIX = 'deia.';
const memory = new Map();

export function recall(key, fallback) {
  try {
    const text = localStorage.getItem(PREFIX + key);
    return text === null ? (memory.get(key) ?? fallback) : JSON.parse(text);
  } catch {
    return memory.get(key) ?? fallback;
  }
}

export function remember(key, value) {
  memory.set(key, value);
  try {
    localStorage.setItem(PREFIX + key, JSON.stringify(value));
  } catch { /* kept in memory only */ }
}

export function forget(key) {
  memory.delete(key);
  try {
    localStorage.removeItem(PREFIX + key);
  } catch { /* nothing to remove */ }
}

// The theme is stored as a bare word because boot.js reads it before any module is there.
const system = matchMedia('(prefers-color-scheme: light)');

export function themeChoice() {
  try {
    return localStorage.getItem(`${PREFIX}theme`) ?? 'system';
  } catch {
    return memory.get('theme') ?? 'system';
  }
}

/** Applies `dark`, `light` or `system` and remembers it. */
export function setTheme(choice) {
  memory.set('theme', choice);
  try {
    localStorage.setItem(`${PREFIX}theme`, choice);
  } catch { /* kept in memory only */ }
  applyTheme();
}

export function applyTheme() {
  const choice = themeChoice();
  const light = choice === 'light' || (choice === 'system' && system.matches);
  document.documentElement.dataset.theme = light ? 'light' : 'dark';
}

system.addEventListener('change', applyTheme);
addEventListener('storage', (e) => { if (e.key === `${PREFIX}theme`) applyTheme(); });
