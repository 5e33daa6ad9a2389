// Drawn here, so that nothing is fetched: 16 by 16, one stroke.

import type { JSX } from 'preact';

const icon = (path: JSX.Element) => (
  <svg class="icon" viewBox="0 0 16 16" width="16" height="16" aria-hidden="true" fill="none" stroke="currentColor">
    {path}
  </svg>
);

export const Mark = () => (
  <svg class="mark" viewBox="0 0 32 32" width="24" height="24" aria-hidden="true">
    <rect class="mark-ground" width="32" height="32" rx="7" />
    <path d="M5 16h7M20 16h7" stroke="#fff" stroke-width="2.6" stroke-linecap="round" />
    <circle cx="16" cy="16" r="4.2" fill="none" stroke="#fff" stroke-width="2.6" />
    <path
      d="M7 8.5 13 13M7 23.5 13 19M25 8.5 19 13M25 23.5 19 19"
      stroke="#8fd3df"
      stroke-width="2"
      stroke-linecap="round"
    />
  </svg>
);

export const ThemeIcon = ({ theme }: { theme: 'auto' | 'light' | 'dark' }) =>
  theme === 'light'
    ? icon(
        <g>
          <circle cx="8" cy="8" r="3" />
          <path d="M8 1.5v1.6M8 12.9v1.6M1.5 8h1.6M12.9 8h1.6M3.4 3.4l1.1 1.1M11.5 11.5l1.1 1.1M12.6 3.4l-1.1 1.1M4.5 11.5l-1.1 1.1" />
        </g>,
      )
    : theme === 'dark'
      ? icon(<path d="M13 9.6A5.6 5.6 0 0 1 6.4 3a5.6 5.6 0 1 0 6.6 6.6Z" />)
      : icon(
          <g>
            <circle cx="8" cy="8" r="5.5" />
            <path d="M8 2.5v11a5.5 5.5 0 0 0 0-11Z" fill="currentColor" stroke="none" />
          </g>,
        );

export const HelpIcon = () =>
  icon(
    <g>
      <path d="M5.7 6.1a2.3 2.3 0 1 1 3.2 2.1c-.6.3-.9.7-.9 1.4" />
      <path d="M8 12.1v.2" stroke-width="1.8" stroke-linecap="round" />
    </g>,
  );

export const LeaveIcon = () => icon(<path d="M6.5 2.5h-3v11h3M7 8h6.5M11 5.2 13.8 8 11 10.8" />);
export const CloseIcon = () => icon(<path d="m4 4 8 8M12 4l-8 8" />);
export const PauseIcon = () => icon(<path d="M5.8 3.5v9M10.2 3.5v9" stroke-width="1.8" />);
export const PlayIcon = () => icon(<path d="M5 3.2v9.6L12.6 8Z" />);
export const CheckIcon = () => icon(<path d="m3 8.4 3.2 3.2L13 4.8" />);
export const WarnIcon = () =>
  icon(
    <g>
      <path d="M8 2.2 14.4 13.4H1.6Z" stroke-linejoin="round" />
      <path d="M8 6.4v3.2M8 11.4v.2" stroke-linecap="round" />
    </g>,
  );
export const BadIcon = () =>
  icon(
    <g>
      <path d="M5.5 2h5L14 5.5v5L10.5 14h-5L2 10.5v-5Z" stroke-linejoin="round" />
      <path d="M8 5v3.6M8 10.8v.2" stroke-linecap="round" />
    </g>,
  );
export const LinkIcon = () => icon(<path d="M2 8h4M10 8h4M6 8a2 2 0 1 0 4 0 2 2 0 0 0-4 0Z" />);
