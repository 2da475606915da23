// The console in a real browser: it loads from its own origin, logs in, runs a query, a mutation and a subscription.
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';

const { BASE_URL, EMAIL, PASSWORD, SCREENSHOT_DIR, CHROMIUM = '/usr/bin/chromium' } = process.env;
const FLAGS = ['no-sandbox', 'disable-gpu', 'no-first-run', 'disable-background-networking', 'disable-component-update', 'disable-sync'];
const PATIENCE = 20_000;

let profile, browser, page;
const strangers = [];
const complaints = [];

before(async () => {
  profile = await mkdtemp(join(tmpdir(), 'console-'));
  browser = await chromium.launchPersistentContext(profile, {
    executablePath: CHROMIUM,
    headless: true,
    viewport: { width: 1280, height: 800 },
    args: FLAGS.map((flag) => `--${flag}`),
  });
  page = await browser.newPage();
  page.setDefaultTimeout(PATIENCE);
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
  page.on('pageerror', (error) => complaints.push(String(error)));
  browser.on('request', (request) => {
    const { protocol, origin } = new URL(request.url());
    if (['http:', 'https:'].includes(protocol) && origin !== BASE_URL) strangers.push(request.url());
  });
  await page.goto(BASE_URL);
});

after(async () => {
  await browser?.close();
  await rm(profile, { recursive: true, force: true });
});

const shot = (name) => SCREENSHOT_DIR && page.screenshot({ path: join(SCREENSHOT_DIR, `${name}.png`) });

const editor = () => page.locator('.graphiql-query-editor .monaco-editor').first();
const results = () => page.locator('.graphiql-response');

async function run(operation) {
  await editor().click();
  await page.keyboard.press('Control+A');
  await page.keyboard.press('Delete');
  // Pasted as text, so that the editor closes no brackets of its own.
  await page.keyboard.insertText(operation);
  await page.keyboard.press('Control+Enter');
}

// The editor shows spaces as no-break ones, and only the lines in sight.
const shown = async () => (await results().innerText()).replaceAll('\u00a0', ' ');

async function until(what, check) {
  const deadline = Date.now() + PATIENCE;
  while (Date.now() < deadline) {
    const found = await check();
    if (found) return found;
    await page.waitForTimeout(50);
  }
  assert.fail(`did not happen: ${what}; shown is: ${await shown()}`);
}

test('the console runs its first query', async () => {
  await editor().waitFor();
  await page.getByRole('button', { name: /execute/i }).click();
  await until('an app is shown', async () => (await shown()).includes('"hello"'));
  await shot('1-first-query');
});

test('a wrong password is told', async () => {
  await page.getByLabel('E-mail').fill(EMAIL);
  await page.getByLabel('Password').fill('wrong');
  await page.getByRole('button', { name: 'Log in' }).click();
  await page.getByRole('alert').filter({ hasText: 'is wrong' }).waitFor();
});

test('after logging in, a task can be started and watched to its end', async () => {
  await page.getByLabel('Password').fill(PASSWORD);
  await page.getByRole('button', { name: 'Log in' }).click();
  await page.getByRole('status').filter({ hasText: `${EMAIL} (ADMIN)` }).waitFor();
  await run('mutation { startDemoTask(input: { steps: 20, stepMillis: 100 }) { task { id } } }');
  const id = await until('a task has an id', async () => (await shown()).match(/task_[0-9a-f]{32}/)?.[0]);
  await run(`subscription { taskUpdated(id: "${id}") { state progress } }`);
  const seen = new Set();
  await until('it has succeeded', async () => {
    const text = await shown();
    const progress = text.match(/"progress": (\d+)/)?.[1];
    if (progress) seen.add(Number(progress));
    return text.includes('"SUCCEEDED"');
  });
  await shot('2-watched');
  assert.ok(seen.size >= 4, `progress moved while it was watched: ${[...seen]}`);
  const kept = await page.evaluate(() => JSON.stringify({ ...localStorage, ...sessionStorage }) + location.href);
  assert.ok(!kept.includes('eyJ'), 'no token is kept in the browser or the address');
});

test('logging out makes the console anonymous again', async () => {
  await page.getByRole('button', { name: 'Log out' }).click();
  await page.getByRole('button', { name: 'Log in' }).waitFor();
  await run('{ viewer { email } }');
  await until('nobody is logged in', async () => /"viewer": null/.test(await shown()));
});

test('nothing was asked of another origin and nothing went wrong', () => {
  assert.deepEqual(strangers, []);
  assert.deepEqual(complaints, []);
});
