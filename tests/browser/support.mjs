// What the browser runs share: Chromium, the address of deia, its API, waiting for conditions.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';

const FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];

export const base = (process.env.DEIA_URL ?? 'http://127.0.0.1:8000').replace(/\/$/, '');
export const axeSource = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
export const launchBrowser = () => chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: FLAGS });

/** Calls of the HTTP API of a service; each answers `{status, body}`. */
export const apiOf = (origin) => async (method, path, body, headers = {}) => {
  const response = await fetch(origin + path, { method, headers: { accept: 'application/json', ...(body && { 'content-type': 'application/json' }), ...headers }, body: body && JSON.stringify(body) });
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

/** Opens a path and waits until its page is there and live. */
export async function visit(page, path, origin = base) {
  await page.goto(origin + path);
  await page.waitForSelector('html[data-page]');
  await page.locator('.conn', { hasText: 'Live' }).waitFor();
}
