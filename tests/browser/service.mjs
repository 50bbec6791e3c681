// A service of a test's own: deia in front of simulated model servers that can be killed and started again. DEIA_BIN is the
// program; free ports, a folder that is thrown away, nothing of the caller's own settings.

import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { giveUp } from './harness.mjs';
import { apiOf, until } from './support.mjs';

const program = process.env.DEIA_BIN ?? path.resolve(import.meta.dirname, '../../target/debug/deia');
const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(DEIA_|OLLAMA_)/.test(name)));
// Where `scripts/test` found memory for it: a disk that is busy with other work may keep silent for seconds, and the service
// rightly refuses to store meanwhile.
const memory = process.env.TMPDIR_FAST ?? tmpdir();
const running = new Set();
const folders = new Set();
const remove = (folder) => rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
process.on('exit', () => {
  for (const { child } of running) child.kill('SIGKILL');
  // One that is still ending may write meanwhile.
  for (const folder of folders) try { remove(folder); } catch (error) { console.error(`${folder} is left: ${error.message}`); }
});

/** Starts the program; one that ends before it is told to ends the run. */
function start(name, args) {
  const child = spawn(program, args, { env: environment, stdio: ['ignore', 'pipe', 'pipe'] });
  const started = { name, child, said: '', ended: null };
  let log = '';
  child.stdout.on('data', (text) => { started.said += text; });
  child.stderr.on('data', (text) => { log = (log + text).slice(-2000); });
  running.add(started);
  started.ended = new Promise((resolve) => {
    child.on('error', (error) => giveUp(`${name} could not be started: ${error.message}`));
    child.on('exit', (code, signal) => {
      if (running.delete(started)) giveUp(`${name} ended by itself (${signal ?? code}):\n${log}`);
      resolve();
    });
  });
  return started;
}

/** Tells it to end and waits until it has; one that does not within a minute is killed. */
async function end(started) {
  if (!running.delete(started)) return;
  started.child.kill();
  const late = setTimeout(() => started.child.kill('SIGKILL'), 60_000);
  await started.ended;
  clearTimeout(late);
}

const read = (file) => { try { return readFileSync(file, 'utf8').trim(); } catch { return ''; } };

/** A simulated model server; `stop()` kills it, `start()` brings it back at the same address. */
async function simulator(name) {
  let started = null;
  const sim = {
    name, url: null,
    async start() {
      started = start(name, ['sim', '--listen', sim.url ? new URL(sim.url).host : '127.0.0.1:0', '--models', 'simulated,llama3.2']);
      sim.url = await until(`the address of ${name}`, () => /listening on (\S+)/.exec(started.said)?.[1]);
    },
    async stop() {
      if (started) await end(started);
      started = null;
    },
  };
  await sim.start();
  return sim;
}

/** `{url, api, sims, stop}`; `sims` by name. Waits are long: what a check needs must not end because the machine is slow. */
export async function startService({ names = ['gpu-a', 'gpu-b'], slots = 1, queueLimit = 512 } = {}) {
  const folder = mkdtempSync(path.join(memory, 'deia-browser-'));
  folders.add(folder);
  const sims = {};
  for (const name of names) sims[name] = await simulator(name);
  const servers = names.map((name) => `{ name = "${name}", url = "${sims[name].url}", slots = ${slots} }`).join(', ');
  writeFileSync(path.join(folder, 'config.toml'), `data_dir = "${folder}/data"\n[server]\nlisten = "127.0.0.1:0"\n[inference]\nservers = [${servers}]\nqueue_limit = ${queueLimit}\noffline_wait_s = 3600\nidle_s = 3600\nsimulated = "off"\n`);
  const deia = start('deia', ['--config', path.join(folder, 'config.toml'), '--ready-file', path.join(folder, 'ready')]);
  const url = await until('the service', () => read(path.join(folder, 'ready')), 30_000);
  return {
    url, api: apiOf(url), sims,
    async stop() {
      await end(deia);
      for (const sim of Object.values(sims)) await sim.stop();
      remove(folder);
      folders.delete(folder);
    },
  };
}
