// A service of a test's own: deia in front of simulated model servers that can be killed and started again. DEIA_BIN is the
// program; free ports, a folder that is thrown away, nothing of the caller's own settings.

import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { apiOf, until } from './support.mjs';

const program = process.env.DEIA_BIN ?? path.resolve(import.meta.dirname, '../../target/debug/deia');
const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(DEIA_|OLLAMA_)/.test(name)));

const start = (args) => spawn(program, args, { env: environment, stdio: ['ignore', 'pipe', 'ignore'] });
const end = (process) => new Promise((resolve) => { process.on('exit', resolve); process.kill(); });
const read = (file) => { try { return readFileSync(file, 'utf8').trim(); } catch { return ''; } };

/** A simulated model server; `stop()` kills it, `start()` brings it back at the same address. */
async function simulator(name) {
  let process = null;
  const sim = {
    name, url: null,
    async start() {
      process = start(['sim', '--listen', sim.url ? new URL(sim.url).host : '127.0.0.1:0', '--models', 'simulated,llama3.2']);
      let said = '';
      process.stdout.on('data', (text) => { said += text; });
      sim.url = await until(`the address of ${name}`, () => /listening on (\S+)/.exec(said)?.[1]);
    },
    async stop() {
      if (process) await end(process);
      process = null;
    },
  };
  await sim.start();
  return sim;
}

/** `{url, api, sims, stop}`; `sims` by name. */
export async function startService({ names = ['gpu-a', 'gpu-b'], slots = 1, queueLimit = 512, offlineWaitS = 60 } = {}) {
  const folder = mkdtempSync(path.join(tmpdir(), 'deia-browser-'));
  const sims = {};
  for (const name of names) sims[name] = await simulator(name);
  const servers = names.map((name) => `{ name = "${name}", url = "${sims[name].url}", slots = ${slots} }`).join(', ');
  writeFileSync(path.join(folder, 'config.toml'), `data_dir = "${folder}/data"\n[server]\nlisten = "127.0.0.1:0"\n[inference]\nservers = [${servers}]\nqueue_limit = ${queueLimit}\noffline_wait_s = ${offlineWaitS}\nsimulated = "off"\n`);
  const deia = start(['--config', path.join(folder, 'config.toml'), '--ready-file', path.join(folder, 'ready')]);
  deia.stdout.resume();
  const url = await until('the service', () => read(path.join(folder, 'ready')), 30_000);
  return {
    url, api: apiOf(url), sims,
    async stop() {
      await end(deia);
      for (const sim of Object.values(sims)) await sim.stop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
