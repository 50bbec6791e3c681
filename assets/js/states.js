// State → word, tone, icon. One table for the whole product: never colour alone.

export const STATES = {
  idle: ['Idle', 'mute', 's-idle'],
  starting: ['Starting', 'live', 's-starting'],
  ready: ['Ready', 'ok', 's-ready'],
  processing: ['Processing', 'live', 's-processing'],
  active: ['Active', 'ok', 's-active'],
  queued: ['Queued', 'warn', 's-queued'],
  stopping: ['Stopping', 'warn', 's-stopping'],
  terminated: ['Terminated', 'mute', 's-terminated'],
  crashed: ['Crashed', 'bad', 's-crashed'],
  restarting: ['Restarting', 'warn', 's-restarting'],
  quarantined: ['Quarantined', 'quar', 's-quarantined'],
  up: ['Up', 'ok', 's-up'],
  down: ['Down', 'bad', 's-crashed'],
  degraded: ['Degraded', 'warn', 'warn'],
  draining: ['Draining', 'warn', 's-stopping'],
};

// Names that supervisors and gates may use for the same conditions.
const SAME = { running: 'up', open: 'down', closed: 'up', half_open: 'degraded', failed: 'crashed', stopped: 'terminated', backoff: 'restarting' };

/** Label, tone and icon of a state; an unknown one is shown by its own name. */
export function look(state) {
  const known = STATES[state] ?? STATES[SAME[state]];
  const [label, tone, icon] = known ?? [String(state ?? 'not known'), 'mute', 's-idle'];
  return { label, tone, icon, state: STATES[state] ? state : SAME[state] ?? state };
}

export const GROUPS = {
  working: ['processing', 'starting', 'queued'],
  serving: ['ready', 'active', 'idle'],
  trouble: ['quarantined', 'crashed', 'restarting', 'stopping', 'down', 'degraded'],
  stopped: ['terminated'],
};

const ORDER = ['quarantined', 'crashed', 'down', 'restarting', 'degraded', 'stopping', 'queued', 'starting', 'processing', 'active', 'ready', 'up', 'idle', 'terminated'];

/** Trouble first. */
export const rank = (state) => {
  const place = ORDER.indexOf(look(state).state);
  return place < 0 ? ORDER.length : place;
};

export const groupOf = (state) => Object.keys(GROUPS).find((group) => GROUPS[group].includes(look(state).state)) ?? 'serving';
