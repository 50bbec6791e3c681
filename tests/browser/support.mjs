// What the browser runs share: Chromium, the address of deia, its API, waiting for conditions.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';

const FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];

export const base = (process.env.DEIA_URL ?? 'http://127.0.0.1:8000').replace(/\/$/, '');
export const axeSource = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
export const launchBrowser = () => chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: FLAGS });

/** A service that has not answered for so long does not answer. */
const ANSWER_MS = 60_000;

/** Calls of the HTTP API of a service; each answers `{status, body}`. */
export const apiOf = (origin) => async (method, path, body, headers = {}) => {
  const response = await fetch(origin + path, { method, signal: AbortSignal.timeout(ANSWER_MS), headers: { accept: 'application/json', ...(body && { 'content-type': 'application/json' }), ...headers }, body: body && JSON.stringify(body) });
  const text = await response.text();
  return { status: response.status, body: text ? JSON.parse(text) : null };
};
export const api = apiOf(base);

/** Waits until `read` gives something true, and returns it; names what it waited for when it does not. */
export async function until(what, read, timeout = 30_000) {
  const end = Date.now() + timeout;
  for (;;) {
    const value = await read();
    if (value) return value;
    if (Date.now() > end) throw new Error(`waited ${timeout / 1000} s for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

/** A page that collects script errors, console errors and CSP reports. */
export async function openPage(browser, { width = 1440, height = 900, theme = 'dark', reducedMotion = 'no-preference', scale = 1 } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: theme, reducedMotion, deviceScaleFactor: scale, hasTouch: width < 500, isMobile: width < 500, permissions: ['clipboard-read', 'clipboard-write'] });
  const page = await context.newPage();
  const problems = [];
  page.on('pageerror', (error) => problems.push(`script: ${error.message}`));
  page.on('console', (message) => { if (message.type() === 'error') problems.push(`console: ${message.text()} ${message.location().url}`); });
  await page.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', (e) => console.error(`CSP ${e.violatedDirective} ${e.blockedURI}`));
  });
  return { context, page, problems };
}

/** Says once when a service is gone: it refuses connections or does not answer. */
export async function watchService(origin, gone) {
  for (;;) {
    try {
      await (await fetch(`${origin}/health/live`, { signal: AbortSignal.timeout(ANSWER_MS) })).text();
    } catch (error) {
      return gone(`The service at ${origin} is gone: ${error.cause?.message ?? error.message}.`);
    }
    await new Promise((resolve) => { setTimeout(resolve, 1000).unref(); });
  }
}

/** Lets the simulated answers of a service go on that wait at the `hold_at` of their script. */
export async function letGo(call = api) {
  for (const { url } of (await call('GET', '/api/servers')).body.items) await fetch(`${url}/sim/let_go`, { method: 'POST' });
}

/** Waits until a page is there and live, with its content. */
export async function ready(page) {
  await page.waitForSelector('html[data-page]');
  await page.locator('.conn', { hasText: 'Live' }).waitFor();
  await until('the content', () => page.evaluate(() => !document.querySelector('.main [aria-busy=true]:not(article)')));
}

export async function visit(page, path, origin = base) {
  await page.goto(origin + path);
  await ready(page);
}

export async function reload(page) {
  await page.reload();
  await ready(page);
}

/** A sequence of keys, typed faster than the 1.2 s after which the page forgets its first key. */
export const sequence = (page, ...keys) => Promise.all(keys.map((key) => page.keyboard.press(key)));
