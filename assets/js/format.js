// Numbers and times as people read them. Pure; every figure has its unit.

const whole = new Intl.NumberFormat('en');

/** 1204 → "1,204" */
export const int = (n) => whole.format(Math.round(n));

/** Tokens in a meter: 8120 → "8.1k" */
export const short = (n) => (n < 1000 ? int(n) : `${(n / 1000).toFixed(n < 99_950 ? 1 : 0)}k`);

/** Decimal, as Ollama shows sizes: 4900000000 → "4.9 GB" */
export function bytes(n) {
  if (!(n > 0)) return 'no size';
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  const step = Math.min(units.length - 1, Math.floor(Math.log10(n) / 3));
  const value = n / 1000 ** step;
  return `${value >= 100 || step === 0 ? Math.round(value) : value.toFixed(1)} ${units[step]}`;
}

/** Milliseconds: "4.1 ms", "0.62 s", "9.4 s", "2 min", "6 d 4 h" */
export function duration(ms) {
  if (ms === null || ms === undefined || Number.isNaN(ms)) return 'not known';
  if (ms < 10) return `${ms.toFixed(1).replace(/\.0$/, '')} ms`;
  if (ms < 100) return `${Math.round(ms)} ms`;
  if (ms < 1000) return `${(ms / 1000).toFixed(2)} s`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1).replace(/\.0$/, '')} s`;
  return span(ms / 1000);
}

/** Seconds, two units at most: "41 s", "12 min", "11 h 2 min", "6 d 4 h" */
export function span(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  const [d, h, m] = [Math.floor(s / 86_400), Math.floor(s / 3600) % 24, Math.floor(s / 60) % 60];
  if (d) return h ? `${d} d ${h} h` : `${d} d`;
  if (h) return m ? `${h} h ${m} min` : `${h} h`;
  if (m) return `${m} min`;
  return `${s} s`;
}

/** "now", "8 s ago", "14 min ago", then the clock. */
export function ago(at, now = Date.now()) {
  const t = new Date(at).getTime();
  if (Number.isNaN(t)) return 'not known';
  const s = (now - t) / 1000;
  if (s < 3) return 'now';
  if (s < 3600) return `${span(s)} ago`;
  return when(at, now);
}

const day = (t) => new Date(t).toDateString();
const part = (t, options) => new Date(t).toLocaleString('en-GB', options);

/** Today "14:32:08", this week "Wed 16:40", older "4 Nov", last year "4 Nov 2025". */
export function when(at, now = Date.now()) {
  const t = new Date(at).getTime();
  if (Number.isNaN(t)) return 'not known';
  if (day(t) === day(now)) return part(t, { hour: '2-digit', minute: '2-digit', second: '2-digit' });
  if (now - t < 6 * 86_400_000) return part(t, { weekday: 'short', hour: '2-digit', minute: '2-digit' }).replace(',', '');
  const old = new Date(t).getFullYear() !== new Date(now).getFullYear();
  return part(t, { day: 'numeric', month: 'short', ...(old && { year: 'numeric' }) });
}

/** Hours and minutes, for axes. */
export const clock = (at, seconds = false) => part(at, { hour: '2-digit', minute: '2-digit', ...(seconds && { second: '2-digit' }) });

/** Waiting time ahead: whole seconds below 20, steps of 5 below 120, then minutes. */
export function eta(seconds) {
  if (seconds === null || seconds === undefined) return 'time not known';
  if (seconds < 1) return 'under 1 s';
  if (seconds < 20) return `about ${Math.round(seconds)} s`;
  if (seconds < 120) return `about ${Math.round(seconds / 5) * 5} s`;
  return `about ${Math.round(seconds / 60)} min`;
}

/** The time until something is tried: "now", "in 9 s", "in 2 min". */
export const within = (seconds) => (seconds < 1 ? 'now' : `in ${span(Math.ceil(seconds))}`);

/** An ETA that falls freely but never grows by less than a fifth, so that it does not flicker. */
export const calmEta = (shown, next) => (shown === null || shown === undefined || next === null || next === undefined || next <= shown || next > shown * 1.2 ? next : shown);

/** 1 → "1st" */
export function ordinal(n) {
  const tail = n % 100 > 10 && n % 100 < 14 ? 'th' : ['th', 'st', 'nd', 'rd'][n % 10] ?? 'th';
  return `${int(n)}${tail}`;
}

/** (1, 'restart') → "1 restart", (2, 'restart') → "2 restarts" */
export const count = (n, noun) => `${int(n)} ${noun}${n === 1 ? '' : 's'}`;

/** Characters as a reader counts them. */
export const characters = (text) => [...(text ?? '')].length;
