// Every view in both themes, looked at by axe as wide as a desk's window and a phone: BASE_URL and TOKEN say where, USER_FILE the
// file of a user to look as, with a second factor (optional), HELD_ADDRESS, HELD_PORT and HELD_AT which address of a NAT pool somebody had, OUT where a picture of each goes (optional). Exits 0 if axe finds
// nothing and nothing is wider than its window, 1 with what is.

import { mkdir, readFile } from 'node:fs/promises';
import axe from 'axe-core';
import { claim, launch, need, totp } from './browser.mjs';

const base = need('BASE_URL');
const token = need('TOKEN');
const held = new URLSearchParams({ address: need('HELD_ADDRESS'), port: need('HELD_PORT'), at: need('HELD_AT') });
const out = process.env.OUT;
if (out) await mkdir(out, { recursive: true });
const SIZES = { desk: { width: 1440, height: 900 }, phone: { width: 390, height: 844 } };

/** How many boxes have used a code. */
let enrolled = 0;

/** What each view is brought to before it is looked at. */
const VIEWS = {
  overview: async (page) => page.getByRole('grid', { name: 'Paths' }).locator('tbody tr').first().waitFor(),
  path: async (page) => {
    await page.goto(`${base}/`);
    await page.getByRole('grid', { name: 'Paths' }).locator('tbody a[href^="/path?"]').first().click();
    await page.getByRole('heading', { name: 'Moves' }).waitFor();
  },
  sessions: async (page) => {
    await page.locator('.rows tbody tr.opens').first().click();
    await page.getByRole('complementary').waitFor();
  },
  flows: async (page) => page.locator('.rows tbody tr.opens').first().waitFor(),
  'flows?port=x': async (page) => page.locator('.field.bad').waitFor(),
  'flows?tenant=nobody': async (page) => page.locator('.empty').waitFor(),
  'history?by=class,destination': async (page) => page.locator('.measured, .history td, .history .empty, .history [role=alert]').first().waitFor(),
  rules: async (page) => page.locator('.rows tbody tr').first().waitFor(),
  'explain?tenant=acme&from=10.1.0.5&to=203.0.113.80:443': async (page) => page.locator('.answer .steps, .answer .empty').first().waitFor(),
  trace: async (page) => page.getByRole('main').waitFor(),
  nat: async (page) => page.getByRole('region', { name: 'Pools' }).locator('td').first().waitFor(),
  [`who-had?${held}`]: async (page) => page.locator('.answer header').first().waitFor(),
  captures: async (page) => {
    await page.getByLabel('Tenant').fill('acme');
    await page.getByRole('button', { name: 'Capture', exact: true }).click();
    await page.getByRole('button', { name: /^Download/ }).first().waitFor();
  },
  enrolments: async (page) => {
    await page.getByRole('region', { name: 'A code for a branch' }).waitFor();
    if (!process.env.ENROLS) return;
    // One that waits, and a code that is shown.
    const waits = `nantes-${++enrolled}`;
    for (const site of [waits, 'brest']) {
      await page.getByLabel('Site').fill(site);
      await page.getByLabel('Prefixes').fill('10.7.0.0/16');
      await page.getByRole('button', { name: 'Make the code' }).click();
      const code = page.getByRole('region', { name: `The code for ${site}, told this once` }).locator('code.secret');
      if (site === waits) await claim(base, await code.textContent(), 'isp-a', 7);
      await code.waitFor();
    }
    await page.getByText('Its LAN, its paths').click();
    await page.getByRole('button', { name: 'Name a path' }).click();
    await page.getByRole('button', { name: `Approve ${waits}` }).waitFor();
  },
  'enrolments?approve': async (page) => {
    await page.getByRole('heading', { name: 'Enrolments', exact: true, level: 2 }).waitFor();
    if (!process.env.ENROLS) return;
    await page.getByRole('button', { name: 'Approve nantes' }).first().click();
    await page.getByRole('dialog').waitFor();
  },
  changes: async (page) => page.getByRole('region', { name: 'Audit log' }).first().waitFor(),
  'changes?edit=tenant:acme': async (page) => {
    const editor = page.getByRole('textbox', { name: 'The text of acme' });
    await editor.waitFor();
    await editor.press('Control+End');
    await page.keyboard.type('\nnonsense = 1\n');
    await page.getByRole('button', { name: 'Keep as candidate' }).click();
    await page.locator('.cm-lint-marker-error').waitFor();
    await editor.press('Control+End');
    await page.keyboard.type('[[');
    await page.locator('.cm-tooltip-autocomplete').waitFor();
  },
  update: async (page) => page.getByRole('region', { name: 'Versions on this box' }).first().waitFor(),
  users: async (page) => page.getByRole('heading', { name: 'Users' }).first().waitFor(),
};

/** The states of a view that its path does not name. */
const NAMES = { 'enrolments?approve': 'enrolments-approve', 'changes?edit=tenant:acme': 'changes-editor', 'flows?port=x': 'flows-bad-filter', 'flows?tenant=nobody': 'flows-empty' };

/** The editor's list of completions: the arrows scroll it from where one types, and it has no focus of its own (ARIA's combobox). */
const EXCUSED = [{ fromShadowDom: ['.code', '.cm-tooltip-autocomplete'] }];

/** What leaves the box as it was. */
const AFTER = {
  'changes?edit=tenant:acme': async (page) => {
    await page.getByRole('button', { name: 'Give it up' }).click();
    await page.getByRole('status').filter({ hasText: 'is given up' }).waitFor();
  },
};

const browser = await launch();
let failed = 0;

async function look(page, name, colorScheme) {
  // Evaluated, not put into the page: its policy lets no such script in.
  if (!(await page.evaluate('typeof axe === "object"'))) await page.evaluate(axe.source);
  for (const [size, viewport] of Object.entries(SIZES)) {
    await page.setViewportSize(viewport);
    const full = `${name}-${size}-${colorScheme}`;
    const { violations } = await page.evaluate(`axe.run({ exclude: ${JSON.stringify(EXCUSED)} })`);
    const [page_, window_] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    if (out) await page.screenshot({ path: `${out}/${full}.png` });
    for (const { id, help, nodes } of violations) {
      console.error(`FAILED: ${full}: ${id}: ${help}`);
      for (const { target, failureSummary } of nodes.slice(0, 5)) {
        console.error(`  ${target.join(' ')}\n    ${(failureSummary ?? '').replaceAll('\n', '\n    ')}`);
      }
    }
    if (page_ > window_) console.error(`FAILED: ${full}: it is ${page_} wide in a window of ${window_}`);
    if (violations.length > 0 || page_ > window_) failed = 1;
    else console.log(`ok: axe finds nothing in ${full}`);
  }
  await page.setViewportSize(SIZES.desk);
}

const user = process.env.USER_FILE && JSON.parse(await readFile(process.env.USER_FILE, 'utf8'));
let cookies;

/** As the user, once: a code is good once, and the session for both themes. Without one by the box's own token. */
async function signIn(page) {
  if (user && cookies) {
    await page.context().addCookies(cookies);
    await page.goto(base);
  } else if (user) {
    await page.goto(base);
    await page.getByLabel('Name').fill(user.name);
    await page.getByLabel('Password').fill(user.password);
    await page.keyboard.press('Enter');
    const field = page.getByLabel('Code of your authenticator app');
    await field.waitFor();
    // That of the next half minute is taken too, and has not been used.
    await field.fill(totp(user.secret, Math.floor(Date.now() / 30_000) + 1));
    await page.keyboard.press('Enter');
  } else {
    await page.getByLabel('Admin token').fill(token);
    await page.keyboard.press('Enter');
  }
  await page.getByRole('navigation').waitFor();
  cookies = await page.context().cookies();
}

for (const colorScheme of ['light', 'dark']) {
  const context = await browser.newContext({ viewport: SIZES.desk, colorScheme, reducedMotion: 'reduce' });
  context.setDefaultTimeout(20_000);
  const page = await context.newPage();
  await page.goto(base);
  await page.getByLabel('Name').waitFor();
  await look(page, 'signin', colorScheme);
  await page.getByRole('button', { name: "Use the box's own token" }).click();
  await page.getByLabel('Admin token').waitFor();
  await look(page, 'signin-by-token', colorScheme);
  await signIn(page);
  for (const [view, prepare] of Object.entries(VIEWS)) {
    if (view !== 'path') await page.goto(`${base}/${view === 'overview' ? '' : view}`);
    await prepare(page);
    await look(page, NAMES[view] ?? view.split('?')[0], colorScheme);
    await AFTER[view]?.(page);
  }
  await page.keyboard.press('Escape');
  await page.locator('body').press('?');
  await page.locator('dialog[open]').waitFor();
  await look(page, 'help', colorScheme);
  await context.close();
}
await browser.close();
process.exit(failed);
