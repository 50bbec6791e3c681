// Icons from the one sprite. Always hidden from assistive technology: the text beside them says it.
//
// The sprite becomes part of the document when the dashboard starts: an icon that is shown for the first time during an
// outage needs no file then.

import { html } from '../html.js';

const PREFIX = 'i-';

/** Puts the sprite into the document. `read()` answers its text. */
export async function loadIcons(read) {
  const sprite = new DOMParser().parseFromString(await read(), 'image/svg+xml').documentElement;
  for (const symbol of sprite.querySelectorAll('symbol')) symbol.id = PREFIX + symbol.id;
  const own = document.importNode(sprite, true);
  own.classList.add('vh');
  own.setAttribute('aria-hidden', 'true');
  document.body.append(own);
}

export const icon = (name, cls = '') => {
  if (name === 's-processing') return bars(cls); // its bars move, so they cannot stand in the sprite
  return html`<svg class="i ${cls}" width="16" height="16" fill="none" stroke="currentColor" stroke-width="1.5" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true" focusable="false"><use href="${`#${PREFIX}${name}`}"></use></svg>`;
};

const bars = (cls) => html`<svg class="i eq ${cls}" viewBox="0 0 16 16" width="16" height="16" fill="none" stroke="currentColor" stroke-width="2.3" stroke-linecap="round" aria-hidden="true" focusable="false"><path d="M3.5 6.3v3.4"></path><path d="M8 3.5v9"></path><path d="M12.5 5.5v5"></path></svg>`;

export const mark = () => html`<svg class="logo" viewBox="0 0 24 24" width="22" height="22" fill="none" aria-hidden="true"><path d="M5 12h5M10 12V7.5A2.5 2.5 0 0 1 12.5 5H16M10 12v4.5A2.5 2.5 0 0 0 12.5 19H16M10 12h6" stroke="currentColor" stroke-width="1.8" stroke-linecap="round"></path><circle cx="4.5" cy="12" r="2.6" fill="currentColor"></circle><circle cx="18.5" cy="5" r="2.2" fill="currentColor"></circle><circle class="logo-live" cx="18.5" cy="12" r="2.6"></circle><circle cx="18.5" cy="19" r="2.2" fill="currentColor"></circle></svg>`;
