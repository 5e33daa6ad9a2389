// Debian's Chromium, quiet: no sandbox because tests run as root, nothing fetched in the background.

import { createHmac } from 'node:crypto';
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

/** The code of a half minute since the Unix epoch, as an authenticator app makes it (RFC 6238). */
export function totp(secret, step) {
  const bits = [...secret].map((letter) => 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'.indexOf(letter).toString(2).padStart(5, '0')).join('');
  const key = Buffer.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)));
  const counter = Buffer.alloc(8);
  counter.writeBigUInt64BE(BigInt(step));
  const hash = createHmac('sha1', key).update(counter).digest();
  return String((hash.readUInt32BE(hash[19] & 15) & 0x7fffffff) % 1_000_000).padStart(6, '0');
}

/** The secret in an enrolment's code, in letters as a branch sends it: base32 with Crockford's alphabet, of 4 bytes of time, and then its 16. */
const LETTERS = '0123456789ABCDEFGHJKMNPQRSTVWXYZ';
function secretOf(code) {
  const bits = [...code.slice('PG1'.length)].filter((letter) => letter !== '-').map((letter) => LETTERS.indexOf(letter).toString(2).padStart(5, '0')).join('');
  const secret = bits.slice(4 * 8, 20 * 8).padEnd(26 * 5, '0');
  return secret.match(/.{5}/g).map((five) => LETTERS[parseInt(five, 2)]).join('');
}

/** Uses a code as a branch does, at a PoP that takes any proof for one. The path's name is the transport's. */
export async function claim(base, code, path, key) {
  const keys = [{ path, 'public-key': Buffer.alloc(32, key).toString('base64'), proof: '' }];
  const body = JSON.stringify({ secret: secretOf(code), step: 'claim', version: '0.1.0', keys });
  const answer = await fetch(`${base}/api/v1/enrol`, { method: 'POST', body, headers: { 'Popgate-Request': '1', 'Content-Type': 'application/json' } });
  if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
  return answer.json();
}

/** What an editor is given in place of what is in it: as if it had been pasted. */
export async function paste(editor, text) {
  await editor.click();
  await editor.press('Control+a');
  await editor.evaluate((element, text) => {
    const clipboardData = new DataTransfer();
    clipboardData.setData('text/plain', text);
    element.dispatchEvent(new ClipboardEvent('paste', { clipboardData, bubbles: true, cancelable: true }));
  }, text);
}
