// The last minute as a line: shape, not values; the number stands beside it.

interface Props {
  values: number[];
  width: number;
  height: number;
  label: string;
  /** How many values fill the width. */
  span?: number;
}

export function Spark({ values, width, height, label, span = 60 }: Props) {
  const top = Math.max(...values, 1e-9);
  const step = width / (span - 1);
  const x = (index: number) => width - (values.length - 1 - index) * step;
  const y = (value: number) => height - 1 - (value / top) * (height - 2.5);
  const points = values.map((value, index) => `${x(index).toFixed(1)},${y(value).toFixed(1)}`);
  const drawn = values.length > 1;
  return (
    <svg class="spark" viewBox={`0 0 ${width} ${height}`} preserveAspectRatio="none" role="img" aria-label={label}>
      <path class="spark-floor" d={`M0 ${height - 0.5}H${width}`} />
      {drawn && <path class="spark-area" d={`M${x(0).toFixed(1)} ${height}L${points.join('L')}L${width} ${height}Z`} />}
      {drawn && <polyline class="spark-line" points={points.join(' ')} />}
    </svg>
  );
}
