// Numbers and times as this field writes them: three digits and a decimal unit, a thin space between.

const THIN = '\u202f';

function scaled(value: number, units: readonly string[]): string {
  let unit = 0;
  while (value >= 999.5 && unit + 1 < units.length) {
    value /= 1000;
    unit += 1;
  }
  const digits = value === 0 || (unit === 0 && Number.isInteger(value)) ? 0 : value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return `${value.toFixed(digits)}${THIN}${units[unit]}`.trimEnd();
}

export const bytes = (count: number): string => scaled(count, ['B', 'KB', 'MB', 'GB', 'TB', 'PB']);
export const bitRate = (perSecond: number): string =>
  scaled(perSecond < 1 ? 0 : Math.round(perSecond), ['bit/s', 'kbit/s', 'Mbit/s', 'Gbit/s', 'Tbit/s']);
export const rate = (perSecond: number): string => {
  if (perSecond >= 999.5) return `${scaled(perSecond, ['', 'k', 'M', 'G'])}/s`;
  return `${perSecond.toFixed(perSecond < 9.95 ? 1 : 0).replace('.0', '')}/s`;
};

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0, useGrouping: true });
export const integer = (count: number): string => whole.format(count).replaceAll(',', THIN);

export const millis = (value: number | null): string =>
  value === null ? '–' : `${value.toFixed(value < 9.95 ? 2 : value < 99.5 ? 1 : 0)}${THIN}ms`;
export const percent = (share: number | null): string => {
  if (share === null) return '–';
  const value = share * 100;
  return `${value.toFixed(value > 0 && value < 9.95 ? 1 : 0)}${THIN}%`;
};

/** `0.4 s`, `59 s`, `12m 04s`, `3h 10m`, `5d 02h`. */
export function duration(secs: number): string {
  if (secs < 9.95) return `${secs.toFixed(1)}${THIN}s`;
  const s = Math.floor(secs);
  const two = (value: number) => String(value).padStart(2, '0');
  if (s < 60) return `${s}${THIN}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m${THIN}${two(s % 60)}s`;
  if (s < 86400) return `${Math.floor(s / 3600)}h${THIN}${two(Math.floor(s / 60) % 60)}m`;
  return `${Math.floor(s / 86400)}d${THIN}${two(Math.floor(s / 3600) % 24)}h`;
}

export const withPort = (address: string, port: number | null): string => {
  if (port === null) return address;
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
};

/** Ports mean nothing without TCP or UDP; ICMP's is the echo identifier. */
export const hasPorts = (protocol: string): boolean => protocol === 'tcp' || protocol === 'udp';

const clock = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const dated = new Intl.DateTimeFormat('en-GB', {
  year: 'numeric',
  month: 'short',
  day: '2-digit',
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
  timeZoneName: 'short',
});

export const timeOfDay = (unixMs: number): string => clock.format(unixMs);
export const dateTime = (unixMs: number): string => dated.format(unixMs);
export const utc = (unixMs: number): string => `${new Date(unixMs).toISOString().slice(0, 19).replace('T', ' ')} UTC`;

/** Whoever asks whose an address was has a time in UTC, and compares. */
export const utcMillis = (unixMs: number): string => new Date(unixMs).toISOString();
