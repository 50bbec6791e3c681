// Drives the dashboard of a running deia (DEIA_URL, simulated model) with a real Chromium, page by page. What needs model
// servers that can be lost runs against services of its own (`service.mjs`). One line per check; the last line is "N passed,
// N failed"; exit code 1 when one failed. Without the browser or a service the run ends at once and says so.
// `node run.mjs models` runs only the named pages.

import assert from 'node:assert/strict';
import { check, checksOf, end, giveUp } from './harness.mjs';
import bots, { leave } from './pages/bots.mjs';
import chat from './pages/chat.mjs';
import look from './pages/look.mjs';
import models from './pages/models.mjs';
import outage from './pages/outage.mjs';
import shell from './pages/shell.mjs';
import tree from './pages/tree.mjs';
import turns from './pages/turns.mjs';
import { base, launchBrowser, openPage, watchService } from './support.mjs';

const only = process.argv.slice(2);
const all = { bots, chat, tree, shell, look, leave, models, turns, outage };
process.on('uncaughtException', (error) => giveUp(error.stack)); // rejections that nobody awaits among them
const browser = await launchBrowser();
browser.on('disconnected', () => giveUp('Chromium is gone.'));
watchService(base, giveUp);
const scene = { ...(await openPage(browser)), browser, id: `web-${Date.now().toString(36)}`, allProblems: [] };

for (const [name, run] of Object.entries(all)) if (!only.length || only.includes(name)) await checksOf(name, () => run(scene));

await check('no script error, no console error, no report of the policy in the whole run', async () => {
  // Chromium notes every refusal on the console; a check takes those out that it asks for. One is nobody's fault: a database
  // that keeps silent for 0.8 s (503 of /health/db), as it does where the disk of the machine is busy.
  const busyDisk = (p) => p.includes('status of 503') && p.endsWith('/health/db');
  const real = [...new Set([...scene.allProblems, ...scene.problems])].filter((p) => !busyDisk(p));
  assert.deepEqual(real, []);
});

end();
