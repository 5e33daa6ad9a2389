// The console's frame: who is signed in, which view, whether the feed lives.

import { useEffect, useMemo, useReducer, useRef, useState } from 'preact/hooks';
import { COOKIE, get, isUnauthorized, send, token } from './api';
import { Captures } from './captures';
import { Changes, Unconfirmed } from './changes';
import { Enrolments } from './enrolments';
import { Explain } from './explain';
import { TraceView } from './trace';
import { Flows } from './flows';
import { timeOfDay } from './format';
import { Help } from './help';
import { HistoryView } from './history';
import { HelpIcon, LeaveIcon, Mark, ThemeIcon } from './icons';
import { useKeys } from './keys';
import { Feed, type Live } from './live';
import { NatView } from './nat';
import { Overview } from './overview';
import { PathView } from './path';
import { follow, go, linkTo, useRoute, type Route, type View } from './route';
import { Rules } from './rules';
import { Sessions } from './sessions';
import { Setup, SignIn, Todo, turnedAway } from './signin';
import { nextTheme, theme } from './theme';
import type { Me } from './types';
import { Update } from './update';
import { Users } from './users';
import { WhoHadView } from './whohad';

/** Who has signed in, and what tells it. */
interface SignedIn {
  me: Me;
  bearer: string;
}

export function App() {
  // Undefined until it is known whether somebody has.
  const [who, setWho] = useState<SignedIn | null>();
  const [notice, setNotice] = useState(turnedAway);
  const [setup, setSetup] = useState(setupSecret);
  useEffect(() => {
    const bearer = token.get() ?? COOKIE;
    get<Me>('session', bearer)
      .then((me) => setWho({ me, bearer }))
      .catch(() => setWho(null));
  }, []);
  const leaving = useRef(false);
  const leave = async (why?: string) => {
    // What else is under way is refused once the session is over, which is no news.
    if (leaving.current) return;
    leaving.current = true;
    let told = why;
    // Where there is no session any more, there is nothing to end. Where there is, the answer is waited for: until then the cookie
    // is good, and the answer would take away that of whoever signs in meanwhile.
    if (who?.bearer === COOKIE && !why) {
      await send('DELETE', 'session', COOKIE).catch((error: unknown) => {
        if (!isUnauthorized(error)) told = NOT_ENDED;
      });
    }
    leaving.current = false;
    token.forget();
    setNotice(told);
    setWho(null);
  };
  const enter = (me: Me, bearer: string) => {
    if (bearer === COOKIE) token.forget();
    forgetSetup();
    setSetup(undefined);
    setWho({ me, bearer });
  };
  if (who === undefined) return null;
  if (setup && !who) return <Setup secret={setup} onSignedIn={enter} leave={() => setSetup(forgetSetup())} />;
  if (!who) return <SignIn notice={notice} onSignedIn={enter} />;
  if (who.me.pending) return <Todo me={who.me} onSignedIn={enter} leave={() => leave()} />;
  return <Console me={who.me} bearer={who.bearer} leave={leave} />;
}

/** Of the setup link, which carries it where no server sees it. */
const setupSecret = (): string | undefined => /^#setup=([\w-]+)$/.exec(location.hash)?.[1];

/** Nor does it stay in the browser's history. */
function forgetSetup(): undefined {
  if (setupSecret()) history.replaceState(null, '', location.pathname + location.search);
  return undefined;
}

const NOT_ENDED = 'The box did not end your session. Sign in and out again when it answers, or the session lasts until it has been idle for too long.';
const EXPIRED = 'You are signed out: your session is over, or the box no longer takes this token.';

function useFeed(bearer: string, onUnauthorized: () => void): Feed {
  const [, update] = useReducer((count: number, _: void) => count + 1, 0);
  const feed = useMemo(() => new Feed(bearer, onUnauthorized), [bearer]);
  useEffect(() => {
    const unsubscribe = feed.subscribe(() => update());
    return () => {
      unsubscribe();
      feed.close();
    };
  }, [feed]);
  return feed;
}

const VIEWS: [View, string, string][] = [
  ['overview', 'Overview', 'g o'],
  ['sessions', 'Sessions', 'g s'],
  ['flows', 'Flows', 'g f'],
  ['history', 'History', 'g h'],
  ['rules', 'Rules', 'g r'],
  ['explain', 'Explain', 'g e'],
  ['trace', 'Trace', 'g t'],
  ['nat', 'NAT', 'g n'],
  ['who-had', 'Who had', 'g w'],
  ['captures', 'Captures', 'g p'],
  ['enrolments', 'Enrolments', 'g b'],
  ['changes', 'Changes', 'g c'],
  ['users', 'Users', 'g u'],
  ['update', 'Update', 'g v'],
];

/** What others may not even see. */
const OWNERS: readonly View[] = ['update'];

const viewsOf = (me: Me) => VIEWS.filter(([view]) => me.role === 'owner' || !OWNERS.includes(view));

function Console({ me, bearer, leave }: SignedIn & { leave: (why?: string) => void }) {
  const route = useRoute();
  const feed = useFeed(bearer, () => leave(EXPIRED));
  const { live } = feed;
  const [help, setHelp] = useState(false);
  const [shownTheme, setShownTheme] = useState(theme);
  const switchTheme = () => setShownTheme(nextTheme());

  useKeys({
    ...Object.fromEntries(viewsOf(me).map(([view, , keys]) => [keys, () => go(linkTo(view, route))])),
    '/': () => document.querySelector<HTMLInputElement>('[data-filter]')?.select(),
    '?': () => setHelp(true),
    t: switchTheme,
  });

  const site = live.status?.site;
  const title = VIEWS.find(([view]) => view === route.view)?.[1];
  useEffect(() => {
    document.title = [title, site, 'popgate'].filter(Boolean).join(' · ');
  }, [title, site]);

  const tenants = useMemo(() => [...new Set(live.paths.map((path) => path.tenant))].sort(), [live.paths]);
  const lost = live.state === 'lost';
  const listing = { route, bearer, tenants, lost, onUnauthorized: () => leave(EXPIRED) };
  return (
    <div class="frame" onClick={follow}>
      <a class="skip" href="#main">
        Skip to content
      </a>
      <header class="top">
        <div class="brand">
          <Mark />
          <span class="name">popgate</span>
          {live.status && (
            <span class="site">
              <b>{live.status.site}</b>
              <span>{live.status.role === 'pop' ? 'PoP' : live.status.role}</span>
            </span>
          )}
        </div>
        <Navigation route={route} me={me} />
        <div class="tools">
          <Pulse live={live} />
          <button type="button" class="plain" aria-label={`Theme: ${shownTheme}`} title={`Theme: ${shownTheme} (t)`} onClick={switchTheme}>
            <ThemeIcon theme={shownTheme} />
          </button>
          <button type="button" class="plain" aria-label="Keys" title="Keys (?)" onClick={() => setHelp(true)}>
            <HelpIcon />
          </button>
          <button type="button" class="plain" aria-label="Sign out" title={`Sign out ${me.name}`} onClick={() => leave()}>
            <LeaveIcon />
          </button>
        </div>
      </header>
      {lost && <Lost live={live} retry={() => feed.retry()} />}
      <Unconfirmed me={me} live={live} bearer={bearer} onUnauthorized={() => leave(EXPIRED)} />
      {route.view === 'overview' && <Overview {...listing} live={live} />}
      {route.view === 'path' && <PathView {...listing} paths={live.paths} />}
      {route.view === 'sessions' && <Sessions {...listing} me={me} />}
      {route.view === 'flows' && <Flows {...listing} />}
      {route.view === 'history' && <HistoryView {...listing} />}
      {route.view === 'rules' && <Rules {...listing} />}
      {route.view === 'explain' && <Explain {...listing} />}
      {route.view === 'trace' && <TraceView {...listing} />}
      {route.view === 'nat' && <NatView {...listing} />}
      {route.view === 'who-had' && <WhoHadView {...listing} />}
      {route.view === 'captures' && <Captures {...listing} me={me} />}
      {route.view === 'enrolments' && <Enrolments {...listing} me={me} live={live} />}
      {route.view === 'changes' && <Changes {...listing} me={me} live={live} />}
      {route.view === 'users' && <Users {...listing} me={me} />}
      {route.view === 'update' && <Update {...listing} />}
      {help && <Help onClose={() => setHelp(false)} />}
    </div>
  );
}

function Navigation({ route, me }: { route: Route; me: Me }) {
  return (
    <nav aria-label="Views">
      {viewsOf(me).map(([view, name, keys]) => (
        <a
          key={view}
          href={linkTo(view, route)}
          aria-current={view === route.view ? 'page' : undefined}
          title={`${name} (${keys})`}
        >
          {name}
        </a>
      ))}
    </nav>
  );
}

const PULSES = { connecting: 'Connecting', live: 'Live', lost: 'Connection lost' };

function Pulse({ live }: { live: Live }) {
  const stuck = live.state === 'live' && live.problem;
  return (
    <span class={`pulse ${stuck ? 'stuck' : live.state}`} role="status">
      <i aria-hidden="true" />
      {stuck ? 'Stuck' : PULSES[live.state]}
    </span>
  );
}

function Lost({ live, retry }: { live: Live; retry: () => void }) {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 250);
    return () => clearInterval(timer);
  }, []);
  const wait = Math.ceil(((live.retryAt ?? now) - now) / 1000);
  return (
    <div class="banner bad" role="alert">
      <strong>Connection to popgate lost.</strong>
      {live.reason && <span>{live.reason}.</span>}
      {live.sampledAt && <span>Numbers are as of {timeOfDay(live.sampledAt)}.</span>}
      <span aria-live="off">{wait > 0 ? `Trying again in ${wait} s.` : 'Trying…'}</span>
      <button type="button" class="link" onClick={retry}>
        Try now
      </button>
    </div>
  );
}
