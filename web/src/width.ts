// The window's width, for what style sheets alone cannot decide: which columns there are.

import { useEffect, useState } from 'preact/hooks';
import type { Column } from './rows';

/** Below this a row is two lines, and a table has few columns. */
export const NARROW = 720;

export function useWidth(): number {
  const [width, setWidth] = useState(innerWidth);
  useEffect(() => {
    const update = () => setWidth(innerWidth);
    addEventListener('resize', update);
    return () => removeEventListener('resize', update);
  }, []);
  return width;
}

export const fitting = <T>(columns: Column<T>[], width: number): Column<T>[] =>
  columns.filter((column) => (column.from ?? 0) <= width);
