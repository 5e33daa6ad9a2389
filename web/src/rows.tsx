// A table of any number of rows, of which only those in sight are in the page. It is a real <table>: the rows that are
// not there are two spacers, and aria-rowcount and aria-rowindex say where one is.

import type { ComponentChildren } from 'preact';
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks';

export interface Column<T> {
  key: string;
  title: string;
  hint?: string;
  /** In rem; what is left over is shared in proportion. */
  width: number;
  right?: boolean;
  mono?: boolean;
  /** Set a little apart from the numbers before it. */
  apart?: boolean;
  cell: (row: T) => ComponentChildren;
  /** What the whole cell says, where it may not fit. */
  full?: (row: T) => string;
  /** Not sortable without it. */
  sort?: (row: T) => number | string;
  /** Shown only in windows at least this wide, in pixels. */
  from?: number;
}

export interface Sort {
  key: string;
  down: boolean;
}

export const readSort = (text: string | undefined): Sort | undefined =>
  text ? { key: text.replace(/^-/, ''), down: text.startsWith('-') } : undefined;
export const writeSort = (sort: Sort | undefined): string | undefined => sort && (sort.down ? `-${sort.key}` : sort.key);

interface Props<T> {
  label: string;
  rows: T[];
  columns: Column<T>[];
  rowKey: (row: T) => string;
  rowHeight: number;
  sort?: Sort;
  onSort: (sort: Sort | undefined) => void;
  rowClass?: (row: T) => string | undefined;
  opened?: string;
  onOpen?: (row: T) => void;
  /** Stands where the rows would. */
  empty?: ComponentChildren;
}

/** Rows kept ready above and below those in sight. */
const OVERSCAN = 8;

const collator = new Intl.Collator('en', { numeric: true });

export function sorted<T>(rows: T[], columns: Column<T>[], sort: Sort | undefined): T[] {
  const by = sort && columns.find((column) => column.key === sort.key)?.sort;
  if (!by) return rows;
  const turn = sort.down ? -1 : 1;
  return rows
    .map((row) => ({ row, value: by(row) }))
    .sort((a, b) =>
      typeof a.value === 'number' && typeof b.value === 'number'
        ? turn * (a.value - b.value)
        : turn * collator.compare(String(a.value), String(b.value)),
    )
    .map(({ row }) => row);
}

export function Rows<T>(props: Props<T>) {
  const { label, columns, rowKey, rowHeight, sort, onSort, rowClass, opened, onOpen, empty } = props;
  const rows = useMemo(() => sorted(props.rows, columns, sort), [props.rows, columns, sort?.key, sort?.down]);
  const pane = useRef<HTMLDivElement>(null);
  const head = useRef<HTMLTableSectionElement>(null);
  const [scrolled, setScrolled] = useState(0);
  const [height, setHeight] = useState(600);
  // The cursor stays on its row, wherever a new sample moves that.
  const [cursor, setCursor] = useState<string>();
  const at = cursor === undefined ? -1 : rows.findIndex((row) => rowKey(row) === cursor);

  useLayoutEffect(() => {
    const element = pane.current!;
    const measure = () => setHeight(element.clientHeight || 600);
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    measure();
    return () => observer.disconnect();
  }, []);

  const first = Math.max(0, Math.floor(scrolled / rowHeight) - OVERSCAN);
  const last = Math.min(rows.length, Math.ceil((scrolled + height) / rowHeight) + OVERSCAN);

  const moveTo = (index: number) => {
    const target = Math.max(0, Math.min(rows.length - 1, index));
    const row = rows[target];
    const element = pane.current;
    if (!row || !element) return;
    setCursor(rowKey(row));
    const below = head.current?.offsetHeight ?? 0;
    const top = target * rowHeight;
    if (top < element.scrollTop) element.scrollTop = top;
    else if (top + rowHeight > element.scrollTop + element.clientHeight - below) {
      element.scrollTop = top + rowHeight - element.clientHeight + below;
    }
  };

  const onKeyDown = (event: KeyboardEvent) => {
    if (event.target !== pane.current || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(height / rowHeight) - 2);
    const moves: Record<string, () => void> = {
      ArrowDown: () => moveTo(at + 1),
      j: () => moveTo(at + 1),
      ArrowUp: () => moveTo(at - 1),
      k: () => moveTo(at - 1),
      PageDown: () => moveTo(at + page),
      PageUp: () => moveTo(at - page),
      Home: () => moveTo(0),
      End: () => moveTo(rows.length - 1),
      Enter: () => {
        const row = rows[at];
        if (row) onOpen?.(row);
      },
    };
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    move();
  };

  // Fewer rows than before may leave the scroll position beyond the end; the browser puts it right without an event.
  useEffect(() => {
    if (pane.current && pane.current.scrollTop !== scrolled) setScrolled(pane.current.scrollTop);
  }, [rows.length]);

  const width = columns.reduce((sum, column) => sum + column.width, 0);
  const id = (index: number) => `${label.replaceAll(/\W+/g, '-')}-${index}`;
  return (
    <div
      class="rows"
      ref={pane}
      tabIndex={0}
      role="group"
      aria-label={`${label}; arrow keys move${onOpen ? ', Enter opens' : ''}`}
      aria-activedescendant={at >= first && at < last ? id(at) : undefined}
      onScroll={(event) => setScrolled(event.currentTarget.scrollTop)}
      onKeyDown={onKeyDown}
      onFocus={(event) => {
        if (event.target === pane.current && at < 0 && rows[first] && onOpen) setCursor(rowKey(rows[0]!));
      }}
    >
      <table role="grid" aria-label={label} aria-rowcount={rows.length + 1} style={{ minWidth: `${width}rem` }}>
        <colgroup>
          {columns.map((column) => (
            <col key={column.key} style={{ width: `${column.width}rem` }} />
          ))}
        </colgroup>
        <thead ref={head}>
          <tr aria-rowindex={1}>
            {columns.map((column) => (
              <Heading key={column.key} column={column} sort={sort} onSort={onSort} />
            ))}
          </tr>
        </thead>
        <tbody>
          {first > 0 && <tr class="spacer" aria-hidden="true" style={{ height: `${first * rowHeight}px` }} />}
          {rows.slice(first, last).map((row, offset) => {
            const index = first + offset;
            const key = rowKey(row);
            const classes = [
              onOpen && 'opens',
              index % 2 === 1 && 'odd',
              index === at && 'cursor',
              key === opened && 'opened',
              rowClass?.(row),
            ];
            return (
              <tr
                key={key}
                id={id(index)}
                class={classes.filter(Boolean).join(' ')}
                style={{ height: `${rowHeight}px` }}
                aria-rowindex={index + 2}
                aria-selected={onOpen ? key === opened : undefined}
                onClick={(event) => {
                  if (!onOpen || (event.target as Element).closest('a') || getSelection()?.toString()) return;
                  setCursor(key);
                  onOpen(row);
                }}
              >
                {columns.map((column) => (
                  <td
                    key={column.key}
                    class={[looks(column), column.mono && 'mono'].filter(Boolean).join(' ') || undefined}
                    title={column.full?.(row)}
                  >
                    {column.cell(row)}
                  </td>
                ))}
              </tr>
            );
          })}
          {last < rows.length && (
            <tr class="spacer" aria-hidden="true" style={{ height: `${(rows.length - last) * rowHeight}px` }} />
          )}
        </tbody>
      </table>
      {rows.length === 0 && empty}
    </div>
  );
}

const looks = <T,>(column: Column<T>) => (column.right ? 'right' : column.apart ? 'apart' : undefined);

function Heading<T>({ column, sort, onSort }: { column: Column<T>; sort?: Sort; onSort: Props<T>['onSort'] }) {
  const active = sort?.key === column.key ? sort : undefined;
  const order = active ? (active.down ? 'descending' : 'ascending') : undefined;
  // Numbers are asked for by size first, names by alphabet; the third press gives back the order they came in.
  const next = () => {
    const startDown = column.right ?? false;
    if (!active) onSort({ key: column.key, down: startDown });
    else if (active.down === startDown) onSort({ key: column.key, down: !startDown });
    else onSort(undefined);
  };
  return (
    <th scope="col" class={looks(column)} aria-sort={order} title={column.hint}>
      {column.sort ? (
        <button type="button" onClick={next}>
          {column.title}
          <span class="order" aria-hidden="true">
            {active ? (active.down ? '↓' : '↑') : ''}
          </span>
        </button>
      ) : (
        column.title
      )}
    </th>
  );
}
