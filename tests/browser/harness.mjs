// Checks and their sum, problems that pages report, and what axe says.

import assert from 'node:assert/strict';
import { axeSource } from './support.mjs';

const RULES = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
export const sum = { passed: 0, failed: 0 };

/** One check, one line. */
export async function check(name, run) {
  try {
    await run();
    sum.passed += 1;
    console.log(`ok    ${name}`);
  } catch (error) {
    sum.failed += 1;
    console.log(`FAIL  ${name}\n      ${String(error.message).split('\n').slice(0, 12).join('\n      ')}`);
  }
}

/** Takes problems out of the list that a check has made on purpose. */
export function expected(problems, pattern) {
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
