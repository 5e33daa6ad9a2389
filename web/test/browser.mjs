// Debian's Chromium, quiet: no sandbox because tests run as root, nothing fetched in the background.

import { chromium } from 'playwright-core';

export const launch = () =>
  chromium.launch({
    executablePath: '/usr/bin/chromium',
    args: [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });

export function need(name) {
  const value = process.env[name];
  if (!value) {
    console.error(`${name} must be set: BASE_URL and TOKEN say where the console is, SESSION_TEXT what it must show`);
    process.exit(2);
  }
  return value;
}
