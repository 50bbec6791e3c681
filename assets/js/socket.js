// The one file that owns the socket: connection, heartbeat, backoff, subscriptions, resume.
//
// A subscription survives reconnects: after a drop it asks for everything after the last durable event it saw, with
// the byte offsets of running answers, so text continues exactly where it stood. `recovered: false` (or no `after`)
// brings a snapshot instead. Close codes from 4500 on mean "do not come back".

const PING_MS = 15_000;
const DEAD_MS = 10_000;
const MAX_WAIT_MS = 10_000;

export class Socket extends EventTarget {
  #ws = null;
  #topics = new Map();
  #calls = new Map();
  #ref = 0;
  #tries = 0;
  #timer = 0;
  #ping = 0;
  #pong = 0;
  #reconnect = true;

  state = { name: 'connecting', tries: 0, since: Date.now(), retryAt: null, rtt: null, reason: null };

  constructor(url) {
    super();
    this.url = url;
    addEventListener('online', () => this.retryNow());
    document.addEventListener('visibilitychange', () => { if (!document.hidden) this.retryNow(); });
  }

  connect() {
    clearTimeout(this.#timer);
    const ws = new WebSocket(this.url, 'deia.v1');
    this.#ws = ws;
    ws.addEventListener('open', () => this.#opened());
    ws.addEventListener('message', (e) => this.#received(e.data));
    ws.addEventListener('close', (e) => { if (this.#ws === ws) this.#closed(e.code, e.reason); });
  }

  /** Skips the rest of the backoff. */
  retryNow() {
    if (this.state.name === 'reconnecting' && this.#ws === null) this.connect();
  }

  /**
   * Follows a topic. `snapshot(frame)` gets every `subscribed` frame, `event(event)` every event, `refused(problem)`
   * an error; `offsets()` names what is already shown of running answers. Returns a function that ends it.
   */
  subscribe(topic, { snapshot, event, refused, offsets, render }) {
    const entry = { topic, snapshot, event, refused, offsets, render, at: null };
    this.#topics.set(topic, entry);
    if (this.#ws?.readyState === WebSocket.OPEN) this.#ask(entry);
    return () => {
      if (this.#topics.get(topic) !== entry) return;
      this.#topics.delete(topic);
      this.#send({ type: 'unsubscribe', ref: this.#next(), topic });
    };
  }

  /** Asks for a fresh snapshot of a topic, after a gap that the reader noticed itself. */
  resync(topic) {
    const entry = this.#topics.get(topic);
    if (!entry) return;
    entry.at = null;
    this.#ask(entry);
  }

  #next() {
    this.#ref += 1;
    return String(this.#ref);
  }

  #send(frame) {
    if (this.#ws?.readyState === WebSocket.OPEN) this.#ws.send(JSON.stringify(frame));
  }

  #ask(entry) {
    const ref = this.#next();
    this.#calls.set(ref, entry);
    const after = entry.at && { ...entry.at, offsets: entry.offsets?.() };
    this.#send({ type: 'subscribe', ref, topic: entry.topic, ...(after && { after }), ...(entry.render && { render: entry.render }) });
  }

  #opened() {
    this.#tries = 0;
    this.#set({ name: 'live', tries: 0, retryAt: null, reason: null });
    for (const entry of this.#topics.values()) this.#ask(entry);
    this.#beat();
  }

  #beat() {
    clearTimeout(this.#ping);
    this.#ping = setTimeout(() => {
      const sent = performance.now();
      this.#calls.set('ping', { pong: () => this.#set({ rtt: performance.now() - sent }) });
      this.#send({ type: 'ping', ref: 'ping' });
      this.#pong = setTimeout(() => this.#ws?.close(4000, 'no pong'), DEAD_MS);
      this.#beat();
    }, this.state.rtt === null ? 400 : PING_MS);
  }

  #received(text) {
    let frame;
    try {
      frame = JSON.parse(text);
    } catch {
      return; // not ours: the server speaks JSON only
    }
    clearTimeout(this.#pong);
    if (frame.type === 'event') this.#event(frame);
    else if (frame.type === 'subscribed') this.#subscribed(frame);
    else if (frame.type === 'pong') this.#calls.get('ping')?.pong();
    else if (frame.type === 'closing') this.#reconnect = frame.reconnect !== false;
    else if (frame.type === 'error' && frame.ref) {
      this.#calls.get(frame.ref)?.refused?.(frame.problem);
      this.#calls.delete(frame.ref);
    }
  }

  #event(frame) {
    const entry = this.#topics.get(frame.topic);
    if (!entry) return;
    if (entry.at && frame.seq > entry.at.seq) entry.at = { epoch: frame.epoch, seq: frame.seq };
    entry.event(frame);
  }

  #subscribed(frame) {
    const entry = this.#calls.get(frame.ref) ?? this.#topics.get(frame.topic);
    this.#calls.delete(frame.ref);
    if (!entry || this.#topics.get(frame.topic) !== entry) return;
    entry.at = { epoch: frame.epoch, seq: frame.seq };
    entry.snapshot(frame);
  }

  #closed(code, reason) {
    clearTimeout(this.#ping);
    clearTimeout(this.#pong);
    this.#calls.clear();
    this.#ws = null;
    if (code >= 4500 || !this.#reconnect) {
      this.#set({ name: 'closed', reason: reason || `code ${code}`, retryAt: null, rtt: null });
      return;
    }
    this.#tries += 1;
    const wait = Math.min(MAX_WAIT_MS, 250 * 2 ** (this.#tries - 1)) * (0.5 + Math.random() / 2);
    const since = this.state.name === 'reconnecting' ? this.state.since : Date.now();
    this.#set({ name: 'reconnecting', tries: this.#tries, retryAt: Date.now() + wait, since, rtt: null });
    this.#timer = setTimeout(() => this.connect(), wait);
  }

  #set(change) {
    const since = change.name && change.name !== this.state.name ? change.since ?? Date.now() : this.state.since;
    this.state = { ...this.state, ...change, since };
    this.dispatchEvent(new Event('state'));
  }
}
