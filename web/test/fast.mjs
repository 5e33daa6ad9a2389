// How soon the console shows something (first contentful paint, W3C Paint Timing), and whether ten thousand rows scroll as smoothly as
// the screen is drawn. BASE_URL and TOKEN say where it is. Prints both; exits 0 if they are as they should be.

import assert from 'node:assert/strict';
import { launch, need } from './browser.mjs';

const FIRST_PAINT_MS = 1000;
const ROWS = 10_000;
const FRAMES = 120;
/** A screen is drawn every 16.7 ms; whoever misses one comes after 33.3. */
const FRAME_MS = 20;

const base = need('BASE_URL');
const token = need('TOKEN');
const browser = await launch();
const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
const page = await context.newPage();
context.setDefaultTimeout(20_000);

/** As many rows as that, made of those the box has; how many others there are does not matter here. */
async function multiply(route) {
  const response = await route.fetch();
  const body = await response.json();
  assert.ok(body.sessions.length > 0, 'the box has sessions');
  const sessions = Array.from({ length: ROWS }, (_, n) => ({ ...body.sessions[n % body.sessions.length], id: n }));
  await route.fulfill({ response, json: { ...body, matching: ROWS, sessions } });
}

/** Scrolls by half a page a frame; how long each frame took, in milliseconds. */
const scroll = (rows, frames) =>
  new Promise((resolve) => {
    const took = [];
    let last;
    const frame = (now) => {
      if (last !== undefined) took.push(now - last);
      last = now;
      if (took.length === frames) return resolve(took);
      rows.scrollTop += rows.clientHeight / 2;
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  });

const inOrder = (values) => [...values].sort((a, b) => a - b);
const median = (values) => inOrder(values)[Math.floor(values.length / 2)];

try {
  const paints = [];
  for (let load = 0; load < 3; load += 1) {
    await page.goto(`${base}/?${load}`);
    await page.waitForFunction(() => performance.getEntriesByName('first-contentful-paint').length > 0);
    paints.push(await page.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0].startTime));
  }
  console.log(`first contentful paint: ${paints.map((paint) => Math.round(paint)).join(', ')} ms`);
  assert.ok(median(paints) < FIRST_PAINT_MS, `the first paint came after ${paints} ms`);

  await page.getByRole('button', { name: "Use the box's own token" }).click();
  await page.getByLabel('Admin token').fill(token);
  await page.keyboard.press('Enter');
  await page.getByRole('navigation').waitFor();
  await page.route('**/api/v1/sessions?*', multiply);
  await page.keyboard.press('g');
  await page.keyboard.press('s');
  const grid = page.getByRole('grid', { name: 'Sessions' });
  await page.waitForFunction((rows) => document.querySelector('.rows [aria-rowcount]')?.getAttribute('aria-rowcount') >= rows, ROWS);
  await grid.waitFor();
  const took = await page.locator('.rows').evaluate(scroll, FRAMES);
  const sorted = inOrder(took);
  const at = (share) => sorted[Math.floor((sorted.length - 1) * share)].toFixed(1);
  console.log(`${ROWS} rows: a frame in ${at(0.5)} ms, 95 of 100 in ${at(0.95)}, the slowest in ${at(1)}`);
  assert.ok(median(took) < FRAME_MS, 'fewer than half of the frames are in time');
  const first = await page.locator('.rows tbody tr[aria-rowindex]').first().getAttribute('aria-rowindex');
  assert.ok(Number(first) > FRAMES, 'it has scrolled');
} catch (error) {
  console.error(error);
  process.exitCode = 1;
} finally {
  await browser.close();
}
