// Pages by path, with the History API. A page is `{path, title, load}`; its module exports `mount(root, ctx)`,
// which returns unmount.

const routes = [];
let current = null;
let outlet = null;
const listeners = new Set();

export function route(name, pattern, load) {
  routes.push({ name, pattern, load });
}

export function onRoute(listener) {
  listeners.add(listener);
}

/** The part after the page's own path and the query, as a page reads them. */
export function here() {
  const url = new URL(location.href);
  const hit = routes.find((r) => r.pattern.test(url.pathname));
  const match = hit?.pattern.exec(url.pathname);
  return { name: hit?.name ?? null, params: (match ?? []).slice(1).map((p) => p && decodeURIComponent(p)), query: url.searchParams };
}

/** Goes to a path; a page that stays is told through `ctx.moved`. */
export function go(path, { replace = false } = {}) {
  if (path !== location.pathname + location.search) history[replace ? 'replaceState' : 'pushState'](null, '', path);
  else if (current) return;
  show();
}

/** Writes the query of the present page without leaving it, so filters survive reload and sharing. */
export function setQuery(change) {
  const url = new URL(location.href);
  for (const [name, value] of Object.entries(change)) {
    if (value) url.searchParams.set(name, value);
    else url.searchParams.delete(name);
  }
  history.replaceState(null, '', url.pathname + url.search);
}

async function show() {
  const at = here();
  if (!at.name) {
    go('/bots', { replace: true });
    return;
  }
  for (const listener of listeners) listener(at);
  if (current?.name === at.name) {
    current.page?.moved?.(at);
    return;
  }
  const entry = { name: at.name, page: null };
  current?.page?.unmount();
  current = entry;
  outlet.replaceChildren();
  const module = await routes.find((r) => r.name === at.name).load();
  if (current !== entry) return; // another page was chosen while this one loaded
  entry.page = module.mount(outlet);
  document.documentElement.dataset.page = at.name;
}

export function start(root) {
  outlet = root;
  addEventListener('popstate', show);
  document.addEventListener('click', (e) => {
    const link = e.target.closest?.('a[href^="/"]');
    if (!link || e.defaultPrevented || e.button || e.metaKey || e.ctrlKey || e.shiftKey || e.altKey || link.target) return;
    if (link.pathname.startsWith('/api/') || link.pathname.startsWith('/assets/')) return;
    e.preventDefault();
    go(link.pathname + link.search);
  });
  show();
}
