// Checks and their sum, the end of the run, problems that pages report, and what axe says.

import assert from 'node:assert/strict';
import { axeSource, until } from './support.mjs';

const RULES = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
/** Every wait of a check has a limit of its own; a check that takes longer than this hangs. */
const LIMIT_MS = 300_000;
const sum = { passed: 0, failed: 0 };
let present = null; // name of the check that runs

function failed(name, error) {
  sum.failed += 1;
  console.log(`FAIL  ${name}\n      ${String(error?.message ?? error).split('\n').slice(0, 12).join('\n      ')}`);
}

/** One check, one line. */
export async function check(name, run) {
  present = name;
  const limit = setTimeout(() => giveUp(`It hangs: no end after ${LIMIT_MS / 1000} s.`), LIMIT_MS);
  try {
    await run();
    sum.passed += 1;
    console.log(`ok    ${name}`);
  } catch (error) {
    failed(name, error);
  }
  clearTimeout(limit);
  present = null;
}

/** The checks of a page; what goes wrong between two of them fails too, and the other pages are checked all the same. */
export async function checksOf(name, run) {
  try {
    await run();
  } catch (error) {
    failed(`between the checks of ${name}`, error);
  }
}

/** Ends the run at once, with the reason: what is gone would fail every check that is left. */
export function giveUp(reason) {
  failed(present ?? 'between two checks', reason);
  end();
}

/** Prints the sum and leaves; the browser and every service that was started go with this process. */
export function end() {
  console.log(`${sum.passed} passed, ${sum.failed} failed`);
  process.exit(sum.failed ? 1 : 0);
}

/** Waits until a problem that a check makes on purpose is told, and takes it out of the list. */
export async function expected(problems, pattern) {
  await until(`the problem ${pattern}`, () => problems.some((p) => pattern.test(p)));
  for (let i = problems.length - 1; i >= 0; i -= 1) if (pattern.test(problems[i])) problems.splice(i, 1);
}

/** Nothing that axe finds, and no sideways scroll. */
export async function looksRight(page) {
  await page.evaluate(axeSource);
  const result = await page.evaluate((runOnly) => globalThis.axe.run(document, { runOnly }), RULES);
  assert.deepEqual(result.violations.map((v) => `${v.id}: ${v.nodes.slice(0, 3).map((n) => `${n.target.join(' ')} ${n.any[0]?.message ?? n.all[0]?.message ?? ''}`).join('; ')}`), []);
  const wide = await page.evaluate(() => [document.documentElement, document.querySelector('.main')].map((e) => e.scrollWidth - e.clientWidth));
  assert.ok(wide.every((w) => w <= 1), `sideways scroll of ${wide} px`);
}
