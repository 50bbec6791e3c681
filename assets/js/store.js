// The store: one state, changed only by the pure reducer. It is an EventTarget that says `change`; views
// render at most once per animation frame, whatever the rate of events.

import { initial, reduce } from './model/reducer.js';

class Store extends EventTarget {
  state = initial;

  dispatch(action) {
    const next = reduce(this.state, action);
    if (next === this.state) return;
    this.state = next;
    this.dispatchEvent(new Event('change'));
  }
}

export const store = new Store();

/**
 * Calls `render` now and after every change, once per frame. `render(again)` may be asked for by `.now()`. The timer
 * keeps relative times ("8 s ago") fresh. Returns a stop function with `.soon()` for own state.
 */
export function watch(render, { every = 0 } = {}) {
  let frame = 0;
  const soon = () => {
    if (frame) return;
    // A hidden page gets no animation frames: it renders when it is seen again.
    frame = requestAnimationFrame(() => {
      frame = 0;
      render();
    });
  };
  store.addEventListener('change', soon);
  const timer = every ? setInterval(soon, every) : 0;
  render();
  const stop = () => {
    cancelAnimationFrame(frame);
    frame = -1;
    clearInterval(timer);
    store.removeEventListener('change', soon);
  };
  stop.soon = soon;
  return stop;
}
