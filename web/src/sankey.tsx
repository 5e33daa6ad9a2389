// Where an answer by several columns goes: from the first column's values to the next's, as wide as their sums. The table below
// it has the same numbers. It is fetched when somebody asks so.

import { sankey, sankeyLeft, type SankeyLink, type SankeyNode } from 'd3-sankey';
import { href, type Route } from './route';
import type { Cell } from './types';
import { NARROW, useWidth } from './width';

interface Node {
  id: string;
  column: string;
  name: string;
}
type Placed = SankeyNode<Node, object>;
type Link = SankeyLink<Node, object>;

export interface SankeyProps {
  /** What the rows are grouped by, in its order. */
  columns: string[];
  rows: { cells: Cell[]; value: number }[];
  of: string;
  say: (value: number) => string;
  route: Route;
}

const ROW = 25;

export default function Sankey({ columns, rows, of, say, route }: SankeyProps) {
  const width = useWidth();
  const inner = Math.min(width, 1880) - (width < NARROW ? 44 : 60);
  const nodes = new Map<string, Node>();
  const links = new Map<string, { source: string; target: string; value: number }>();
  const node = (at: number, cell: Cell): string => {
    // A value may stand in two columns, and is another thing in each.
    const id = `${at} ${String(cell)}`;
    nodes.set(id, { id, column: columns[at]!, name: cell === null ? 'none' : String(cell) });
    return id;
  };
  for (const { cells, value } of rows.filter((row) => row.value > 0)) {
    for (let at = 0; at + 1 < columns.length; at += 1) {
      const [source, target] = [node(at, cells[at]!), node(at + 1, cells[at + 1]!)];
      const link = links.get(`${source} > ${target}`);
      if (link) link.value += value;
      else links.set(`${source} > ${target}`, { source, target, value });
    }
  }
  if (links.size === 0) return null;
  const most = Math.max(...columns.map((column) => [...nodes.values()].filter((it) => it.column === column).length));
  const height = Math.max(most * ROW, 90);
  const label = Math.min(170, inner * 0.28);
  const place = sankey<Node, object>()
    .nodeId((it) => it.id)
    .nodeAlign(sankeyLeft)
    .nodeWidth(9)
    .nodePadding(13)
    .extent([
      [label, 4],
      [inner - label, height - 4],
    ]);
  const graph = place({ nodes: [...nodes.values()], links: [...links.values()] });
  const name = (link: Link) => `${(link.source as Placed).name} to ${(link.target as Placed).name}: ${say(link.value)}`;
  return (
    <section class="panel sankey" aria-label={`${of} by ${columns.join(' and ')}`}>
      <header>
        <h2>{columns.map((it) => it.replaceAll('_', ' ')).join(' → ')}</h2>
        <span class="legend">{of}, of the {rows.length} largest</span>
      </header>
      <svg width={inner} height={height} role="group" aria-label={`${of} from ${columns.join(' to ')}; the table below says the same`}>
        <g>
          {graph.links.map((link) => (
            <path key={name(link)} class="flow" d={ribbon(link)} stroke-width={Math.max(1, link.width ?? 1)}>
              <title>{name(link)}</title>
            </path>
          ))}
        </g>
        {graph.nodes.map((it) => {
          const isLast = it.x1! >= inner - label - 1;
          const to = narrowed(route, it);
          const y = (it.y0! + it.y1!) / 2;
          const text = (
            <>
              <title>{`${it.name}: ${say(it.value ?? 0)}`}</title>
              <rect x={it.x0} y={it.y0} width={it.x1! - it.x0!} height={Math.max(2, it.y1! - it.y0!)} />
              <text x={isLast ? it.x1! + 6 : it.x0! - 6} y={y} text-anchor={isLast ? 'start' : 'end'} dominant-baseline="central">
                {cut(it.name, Math.floor(label / 7.4))}
              </text>
            </>
          );
          return to ? (
            <a key={it.id} href={to} aria-label={`Only ${it.column} ${it.name}, ${say(it.value ?? 0)}`}>
              {text}
            </a>
          ) : (
            <g key={it.id}>{text}</g>
          );
        })}
      </svg>
    </section>
  );
}

function ribbon({ source, target, y0, y1 }: Link): string {
  const [from, to] = [(source as Placed).x1!, (target as Placed).x0!];
  const middle = (from + to) / 2;
  return `M${from} ${y0}C${middle} ${y0} ${middle} ${y1} ${to} ${y1}`;
}

/** The same question of this value alone, where the filter language can say it without quotes. */
function narrowed(route: Route, { column, name }: Node): string | undefined {
  if (!/^[\w.:/-]+$/.test(name) || name === 'none') return undefined;
  const q = route.query.q ? `(${route.query.q}) and ${column} = ${name}` : `${column} = ${name}`;
  return href('history', { ...route.query, q, cursor: undefined });
}

const cut = (text: string, letters: number): string => (text.length > letters ? `${text.slice(0, letters - 1)}…` : text);
