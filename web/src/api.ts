// Asking the API. Who has signed in is known by a cookie that no script can read. The box's own token, which one may bring in its
// place, lives in sessionStorage: gone with the tab, never in a URL or a cookie.

import type { Problem } from './types';

const KEPT_AS = 'popgate-token';

/** What stands in place of a token where the cookie tells who it is. */
export const COOKIE = '';

export const token = {
  get: (): string | null => sessionStorage.getItem(KEPT_AS),
  set: (value: string) => sessionStorage.setItem(KEPT_AS, value),
  forget: () => sessionStorage.removeItem(KEPT_AS),
};

/** After this long without a key or a touch, what the console asks by itself does not keep the session open. */
const IDLE_MS = 60_000;
let touchedAt = Date.now();
for (const event of ['keydown', 'pointerdown', 'wheel']) addEventListener(event, () => (touchedAt = Date.now()), { passive: true });

/** The server answered, but not with what was asked for. */
export class Refused extends Error {
  constructor(readonly problem: Problem) {
    super(problem.detail);
  }
}

/** There was no answer at all. */
export class Unreachable extends Error {
  constructor() {
    super(`no answer from ${location.host}`);
  }
}

/** What a failed request is told as. */
export const asProblem = (error: unknown): Problem =>
  error instanceof Refused
    ? error.problem
    : { title: 'Unreachable', status: 0, detail: error instanceof Error ? error.message : String(error) };

/** The response to `GET /api/v1/…`; throws `Refused`, `Unreachable`, or the signal's AbortError. */
export function open(path: string, bearer: string, signal?: AbortSignal): Promise<Response> {
  return exchange(path, bearer, { signal });
}

/** Sends what changes something; `tag` is that of what it takes the place of. */
export async function send<T>(method: 'POST' | 'PUT' | 'PATCH' | 'DELETE', path: string, bearer: string, body?: unknown, tag?: string): Promise<T> {
  const headers: Record<string, string> = tag === undefined ? {} : { 'If-Match': `"${tag}"` };
  const response = await exchange(path, bearer, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const text = await response.text();
  return (text ? JSON.parse(text) : undefined) as T;
}

/** Sends a file by POST; `tell` hears how much of it has been sent, 0 to 1. */
export function upload<T>(path: string, bearer: string, file: File, tell: (sent: number) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    // fetch does not say how much has been sent.
    const request = new XMLHttpRequest();
    request.open('POST', `/api/v1/${path}`);
    for (const [name, value] of Object.entries(proofOf(bearer))) request.setRequestHeader(name, value);
    request.setRequestHeader('Content-Type', 'application/octet-stream');
    request.upload.onprogress = (event) => tell(event.lengthComputable ? event.loaded / event.total : 0);
    request.upload.onload = () => tell(1);
    request.onerror = () => reject(new Unreachable());
    request.onload = () => {
      if (request.status < 300) return resolve(JSON.parse(request.responseText) as T);
      let problem: Problem = { title: request.statusText, status: request.status, detail: `status ${request.status}` };
      try {
        problem = { ...problem, ...(JSON.parse(request.responseText) as Problem) };
      } catch {
        // As below.
      }
      reject(new Refused(problem));
    };
    request.send(file);
  });
}

/** Who asks; no page of another site can send this header. */
const proofOf = (bearer: string): Record<string, string> => (bearer === COOKIE ? { 'Popgate-Request': '1' } : { Authorization: `Bearer ${bearer}` });

async function exchange(path: string, bearer: string, init: RequestInit): Promise<Response> {
  let response: Response;
  try {
    const idle: Record<string, string> = Date.now() - touchedAt > IDLE_MS ? { 'Popgate-Idle': '1' } : {};
    const headers = { ...init.headers, ...proofOf(bearer), ...idle };
    const credentials = bearer === COOKIE ? 'same-origin' : 'omit';
    response = await fetch(`/api/v1/${path}`, { ...init, headers, cache: 'no-store', credentials });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new Unreachable();
  }
  if (response.ok) return response;
  let problem: Problem = { title: response.statusText, status: response.status, detail: `status ${response.status}` };
  try {
    problem = { ...problem, ...((await response.json()) as Problem) };
  } catch {
    // Something in between answered; its status says what there is to say.
  }
  throw new Refused(problem);
}

/** Has the browser save what `GET /api/v1/…` answers under this name. */
export async function download(path: string, bearer: string, name: string): Promise<void> {
  const file = await open(path, bearer);
  const link = document.createElement('a');
  link.href = URL.createObjectURL(await file.blob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

export async function get<T>(path: string, bearer: string, signal?: AbortSignal): Promise<T> {
  const response = await open(path, bearer, signal);
  return (await response.json()) as T;
}

export const isUnauthorized = (error: unknown): boolean => error instanceof Refused && error.problem.status === 401;
