// The map: far ends on one side, this box on the other, between them the transports that paths come in by. It is a plan and no
// atlas: everything keeps its place by its name, and what is many is one until it is opened. The list of paths below it says the
// same in words and numbers.

import { useMemo } from 'preact/hooks';
import { bitRate, integer } from './format';
import { pathKey, type Live } from './live';
import { href, type Route } from './route';
import type { PathReport, Status } from './types';
import { NARROW, useWidth } from './width';
import { LOSS_WARN } from './wrong';

/** So many rows can be told apart; of more the worst are shown. */
const ROWS = 24;
/** Up to so many sites each has a row of its own; from then on a tenant has one. */
const FEW = 16;

type Level = 'up' | 'warn' | 'down';
const WORST: Record<Level, number> = { up: 0, warn: 1, down: 2 };
const SAID: Record<Level, string> = { up: 'up', warn: 'impaired', down: 'down' };

interface Far {
  key: string;
  name: string;
  /** Before the name: whose it is. */
  whose?: string;
  /** After it: how many sites it stands for. */
  sites?: string;
  level: Level;
  said: string;
  /** Where it leads. */
  to: string;
  paths: PathReport[];
}

const levelOf = (path: PathReport): Level =>
  path.state === 'down' ? 'down' : path.state !== 'up' || (path.loss ?? 0) >= LOSS_WARN ? 'warn' : 'up';

/** What several share is down when all of them are, and impaired when not all are up. */
function commonLevel(paths: PathReport[]): Level {
  const levels = paths.map(levelOf);
  return levels.every((it) => it === 'down') ? 'down' : levels.every((it) => it === 'up') ? 'up' : 'warn';
}

const worst = (levels: Level[]): Level => levels.reduce((a, b) => (WORST[b] > WORST[a] ? b : a), 'up');

function groupBy<T>(items: T[], key: (item: T) => string): [string, T[]][] {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const group = groups.get(key(item));
    if (group) group.push(item);
    else groups.set(key(item), [item]);
  }
  return [...groups].sort(([a], [b]) => (a < b ? -1 : 1));
}

const siteKey = ({ tenant, site }: PathReport) => `${tenant} ${site}`;

const siteOf = (paths: PathReport[]): Far => {
  const [{ tenant, site }] = paths as [PathReport];
  const level = commonLevel(paths);
  const up = paths.filter((it) => levelOf(it) !== 'down').length;
  const said = `${SAID[level]}, ${up} of ${paths.length} paths`;
  return { key: `${tenant} ${site}`, name: site, whose: tenant, level, said: `${tenant} ${site}: ${said}`, to: href('overview', { find: `${tenant} ${site}`, group: tenant }), paths };
};

function tenantOf(tenant: string, paths: PathReport[]): Far {
  const levels = groupBy(paths, siteKey).map(([, paths]) => commonLevel(paths));
  const of = (level: Level) => levels.filter((it) => it === level).length;
  const troubles = (['down', 'warn'] as const).filter((level) => of(level) > 0).map((level) => `${integer(of(level))} ${SAID[level]}`);
  const note = `${integer(levels.length)} ${levels.length === 1 ? 'site' : 'sites'}${troubles.map((it) => `, ${it}`).join('')}`;
  const said = troubles.length > 0 ? note : `${note}, all up`;
  return { key: tenant, name: tenant, sites: note, level: worst(levels), said: `${tenant} ${said}`, to: href('overview', { group: tenant }), paths };
}

/** Of more than can be shown the worst, in the order of their names as ever. */
function shown(all: Far[]): Far[] {
  if (all.length <= ROWS) return all;
  const chosen = new Set([...all].sort((a, b) => WORST[b.level] - WORST[a.level]).slice(0, ROWS));
  return all.filter((it) => chosen.has(it));
}

const NOWHERE = 'none yet';
const by = (path: PathReport) => path.transport ?? NOWHERE;

export function SiteMap({ live, status, route }: { live: Live; status: Status; route: Route }) {
  const width = useWidth();
  const { group } = route.query;
  const { fars, hidden, isOpened } = useMemo(() => {
    const sites = groupBy(live.paths, siteKey);
    const tenants = groupBy(live.paths, ({ tenant }) => tenant);
    const isCrowded = sites.length > FEW;
    const opened = isCrowded ? tenants.find(([tenant]) => tenant === group) : undefined;
    const all = opened
      ? groupBy(opened[1], siteKey).map(([, paths]) => siteOf(paths))
      : isCrowded && tenants.length > 1
        ? tenants.map(([tenant, paths]) => tenantOf(tenant, paths))
        : sites.map(([, paths]) => siteOf(paths));
    const fars = shown(all);
    return { fars, hidden: all.length - fars.length, isOpened: Boolean(opened) && tenants.length > 1 };
  }, [live.paths, group]);
  return (
    <section class="panel map" aria-labelledby="map-title">
      <header>
        <h2 id="map-title">Map</h2>
        <span class="legend" aria-hidden="true">
          <Sign level="up" /> up <Sign level="warn" /> impaired <Sign level="down" /> down
        </span>
        {isOpened && <a href={href('overview', {})}>All tenants</a>}
      </header>
      {fars.length === 0 ? (
        <p class="empty">
          {status.site} stands alone: no path is configured. {status.role === 'pop' ? 'A [[branch.path]] in a tenant’s file' : 'A [[pop.path]]'} makes one.
        </p>
      ) : (
        <Plan live={live} status={status} fars={fars} width={Math.min(width, 1880) - (width < NARROW ? 42 : 58)} isNarrow={width < NARROW} />
      )}
      {hidden > 0 && (
        <p class="hint">
          The {fars.length} that are worst off, and {integer(hidden)} more: the list below has them all.
        </p>
      )}
    </section>
  );
}

const Sign = ({ level }: { level: Level }) => (
  <svg class="sign" viewBox="-7 -7 14 14" width="12" height="12" aria-hidden="true">
    <Shape level={level} />
  </svg>
);

/** A state is a shape, too: a disc, a triangle, a cross. */
function Shape({ level }: { level: Level }) {
  if (level === 'up') return <circle class="node up" r="5" />;
  if (level === 'warn') return <path class="node warn" d="M0-6 6 5H-6Z" />;
  return <path class="node down" d="M-5-5 5 5M5-5-5 5" />;
}

interface PlanProps {
  live: Live;
  status: Status;
  fars: Far[];
  width: number;
  isNarrow: boolean;
}

const ROW = 28;
const BOX = { width: 132, height: 58 };
const NARROW_BOX = { width: 74, height: 58 };

function Plan({ live, status, fars, width, isNarrow }: PlanProps) {
  const box = isNarrow ? NARROW_BOX : BOX;
  const height = Math.max(fars.length * ROW, box.height + 24) + 8;
  const labels = isNarrow ? 118 : Math.min(230, width * 0.25);
  const end = width - box.width - 2;
  const middle = isNarrow ? labels + (end - labels) * 0.62 : labels + (end - labels) * 0.6;
  const top = (height - fars.length * ROW) / 2;
  const rowY = (row: number) => top + (row + 0.5) * ROW;
  const transports = groupBy(fars.flatMap((far) => far.paths), by);
  const transportY = new Map(transports.map(([name], at) => [name, ((at + 0.5) * height) / transports.length]));
  const bits = (paths: PathReport[]) =>
    paths.reduce((sum, path) => {
      const known = live.pathRates.get(pathKey(path));
      return sum + (known ? known.inBits + known.outBits : 0);
    }, 0);
  const bend = (x1: number, y1: number, x2: number, y2: number) => `M${x1} ${y1}C${(x1 + x2) / 2} ${y1} ${(x1 + x2) / 2} ${y2} ${x2} ${y2}`;
  const where = [status.metro, status.facility].filter(Boolean).join(', ');
  return (
    <svg class="plan" width={width} height={height} role="group" aria-label={`Map of ${status.site} and what leads to it; the list of paths below says the same`}>
      <g>
        {transports.map(([name, paths]) => {
          const y = transportY.get(name)!;
          return <path key={name} class={`way ${trunkLevel(paths)}`} stroke-width={thickness(bits(paths))} d={bend(middle, y, end, height / 2)} />;
        })}
      </g>
      <g>
        {fars.flatMap((far, row) =>
          groupBy(far.paths, (path) => (far.name === path.site ? pathKey(path) : by(path))).map(([key, paths], at, all) => {
            const [path] = paths as [PathReport];
            const isOne = far.name === path.site;
            const level = isOne ? levelOf(path) : commonLevel(paths);
            // Those of one site by the same transport leave it side by side.
            const y = rowY(row) + (at - (all.length - 1) / 2) * 5;
            const d = bend(labels, y, middle, transportY.get(by(path))!);
            const name = isOne
              ? `Path ${path.tenant} ${path.site} ${path.path}: ${path.state === 'up' ? SAID[level] : path.state}, ${bitRate(bits(paths))}`
              : `${paths.length} paths of ${path.tenant} by ${by(path)}: ${paths.filter((it) => it.state !== 'down').length} up, ${bitRate(bits(paths))}`;
            const to = isOne
              ? href('path', { tenant: path.tenant, site: path.site, path: path.path })
              : href('overview', { find: `${path.tenant} ${path.transport ?? ''}`.trim(), group: undefined });
            return (
              <a key={`${far.key} ${key}`} href={to} aria-label={name}>
                <title>{name}</title>
                <path class="hit" d={d} />
                <path class={`way ${level}`} stroke-width={thickness(bits(paths))} d={d} />
                {level === 'down' && <path class="node down" transform={`translate(${(labels + middle) / 2} ${(y + transportY.get(by(path))!) / 2})`} d="M-4-4 4 4M4-4-4 4" />}
              </a>
            );
          }),
        )}
      </g>
      <g>
        {transports.map(([name]) => (
          <g key={name} transform={`translate(${middle} ${transportY.get(name)!})`} class="transport">
            <rect x={-4} y={-4} width="8" height="8" />
            <text y={-9} text-anchor="middle">
              {name}
            </text>
          </g>
        ))}
      </g>
      <g>
        {fars.map((far, row) => (
          <a key={far.key} href={far.to} aria-label={far.said}>
            <title>{`${far.said}, ${bitRate(bits(far.paths))}`}</title>
            <rect class="hit row" x="0" y={rowY(row) - ROW / 2} width={labels} height={ROW} rx="4" />
            <g transform={`translate(${labels} ${rowY(row)})`}>
              <circle class="ground" r="8" />
              <Shape level={far.level} />
            </g>
            <text class="name" x={labels - 14} y={rowY(row)} text-anchor="end" dominant-baseline="central">
              {!isNarrow && far.whose && <tspan class="note">{far.whose} </tspan>}
              {cut(far.name, isNarrow ? 15 : 31)}
              {!isNarrow && far.sites && <tspan class="note"> {far.sites}</tspan>}
            </text>
          </a>
        ))}
      </g>
      <g transform={`translate(${end} ${height / 2 - box.height / 2})`} class="here">
        <rect width={box.width} height={box.height} rx="6" />
        <text class="name" x={box.width / 2} y={where && !isNarrow ? 22 : 26} text-anchor="middle">
          {cut(status.site, isNarrow ? 9 : 16)}
        </text>
        <text class="note" x={box.width / 2} y={where && !isNarrow ? 41 : 44} text-anchor="middle">
          {isNarrow ? (status.metro ?? (status.role === 'pop' ? 'PoP' : 'branch')) : cut(where || (status.role === 'pop' ? 'PoP' : 'branch'), 20)}
        </text>
      </g>
    </svg>
  );
}

/** A transport is in trouble when most of what comes in by it is: one branch's line is not its fault. */
function trunkLevel(paths: PathReport[]): Level {
  const common = commonLevel(paths);
  return common === 'warn' && paths.filter((it) => levelOf(it) === 'up').length * 2 > paths.length ? 'up' : common;
}

/** 1.2 for nothing, one more for every tenfold from 100 kbit/s on. */
const thickness = (bits: number): string => (1.2 + Math.min(5, Math.max(0, Math.log10(bits / 1e5 + 1)))).toFixed(1);

const cut = (text: string, letters: number): string => (text.length > letters ? `${text.slice(0, letters - 1)}…` : text);
