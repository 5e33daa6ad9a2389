// Where one is: the view is the path, everything that narrows or sorts it is the query. A link shows a colleague the
// same rows.

import { useLayoutEffect, useState } from 'preact/hooks';

export type View = 'overview' | 'path' | 'sessions' | 'flows' | 'rules' | 'history' | 'explain' | 'trace' | 'nat' | 'who-had' | 'captures' | 'enrolments' | 'changes' | 'users' | 'update';

export interface Route {
  view: View;
  query: Readonly<Record<string, string>>;
}

const PATHS: Record<View, string> = {
  overview: '/',
  path: '/path',
  sessions: '/sessions',
  flows: '/flows',
  rules: '/rules',
  history: '/history',
  explain: '/explain',
  trace: '/trace',
  nat: '/nat',
  'who-had': '/who-had',
  captures: '/captures',
  enrolments: '/enrolments',
  changes: '/changes',
  users: '/users',
  update: '/update',
};

/** What sessions and flows are both narrowed by; it stays when one goes from one to the other. */
export const FILTERS = ['tenant', 'address', 'port', 'class'] as const;
export type Filter = (typeof FILTERS)[number];

export function current(): Route {
  const view = (Object.keys(PATHS) as View[]).find((view) => PATHS[view] === location.pathname) ?? 'overview';
  return { view, query: Object.fromEntries(new URLSearchParams(location.search)) };
}

export function href(view: View, query: Record<string, string | undefined> = {}): string {
  const set = Object.entries(query).filter((entry): entry is [string, string] => Boolean(entry[1]));
  const text = new URLSearchParams(set).toString();
  return PATHS[view] + (text && `?${text}`);
}

/** The link to another view, taking along the filters both know. */
export function linkTo(view: View, from: Route): string {
  // The ledger is asked for outside addresses alone, the history in a language of its own.
  const alone: View[] = ['overview', 'path', 'history', 'who-had', 'changes', 'users', 'update'];
  if (alone.includes(view) || alone.includes(from.view)) return href(view);
  // The others know tenants alone.
  const shared = [view, from.view].some((either) => ['rules', 'explain', 'trace', 'nat', 'captures', 'enrolments'].includes(either)) ? (['tenant'] as const) : FILTERS;
  return href(view, Object.fromEntries(shared.map((name) => [name, from.query[name]])));
}

const listeners = new Set<() => void>();

export function go(url: string): void {
  if (url === location.pathname + location.search) return;
  history.pushState(null, '', url);
  listeners.forEach((tell) => tell());
}

/** Changes the query in place: typing a filter is not a step to go back through. */
export function narrow(changes: Record<string, string | undefined>): void {
  const { view, query } = current();
  history.replaceState(null, '', href(view, { ...query, ...changes }));
  listeners.forEach((tell) => tell());
}

export function useRoute(): Route {
  const [route, setRoute] = useState(current);
  // Before the page is seen: a key or a link that is pressed at once goes somewhere.
  useLayoutEffect(() => {
    const update = () => setRoute(current());
    listeners.add(update);
    addEventListener('popstate', update);
    return () => {
      listeners.delete(update);
      removeEventListener('popstate', update);
    };
  }, []);
  return route;
}

/** Makes a plain link go without loading the page; new tabs and windows stay the browser's. */
export function follow(event: MouseEvent): void {
  if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey) return;
  const link = (event.target as Element).closest('a');
  if (!link || link.origin !== location.origin || link.target) return;
  event.preventDefault();
  go(link.pathname + link.search);
}
