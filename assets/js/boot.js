// The one classic script: it runs before the first paint, so that a remembered theme never flashes.
(() => {
  let choice = 'system';
  try { choice = localStorage.getItem('deia.theme') ?? 'system'; } catch { /* storage is off: follow the system */ }
  const light = choice === 'light' || (choice !== 'dark' && matchMedia('(prefers-color-scheme: light)').matches);
  document.documentElement.dataset.theme = light ? 'light' : 'dark';
})();
