// What each drop reason means, in the words of popgate's `DropReason`, and which of them say that something is wrong
// with the box rather than with the traffic.

export const REASONS: Record<string, string> = {
  'not-wireguard': 'Not a WireGuard message at all',
  'handshake-mac-invalid': "Handshake not meant for this box's key",
  'handshake-refused': 'Handshake did not authenticate, or is a replay',
  'peer-unknown': 'Handshake from a public key that no path has',
  'handshake-rate-limited': 'Too many handshakes from one source',
  'cookie-required': 'Under load; a cookie was sent',
  'wrong-transport': 'Peer came by another transport than its path names',
  'receiver-index-unknown': 'For a tunnel session that is not there, as after a restart',
  'tunnel-authentication-failed': 'Tunnel packet did not authenticate',
  'tunnel-replayed': 'Tunnel packet seen before, or too old',
  'tunnel-session-expired': 'Tunnel session has expired',
  malformed: 'Not a well-formed IP packet',
  'source-routed': 'Source routing is not allowed',
  'address-not-forwarded': 'Link-local, loopback, multicast or unspecified',
  'fragment-unknown': 'First fragment was not seen',
  'ttl-expired': 'TTL ran out; answered with ICMP',
  'too-big': 'Larger than the path; answered with ICMP',
  'source-not-allowed': 'Source address does not belong to its sender',
  'no-route': 'No prefix of the tenant covers the destination',
  'hairpin-refused': 'Would leave the way it came',
  'acl-dropped': 'An ACL rule drops it',
  'acl-rejected': 'An ACL rule rejects it; answered',
  'acl-default': 'No ACL rule accepts it',
  'no-session': 'Belongs to no session and cannot begin one',
  'nat-required': 'Handoff has no NAT pool',
  'nat-pool-exhausted': 'Every port of the NAT pool is in use',
  'session-table-full': 'Session table is full',
  'nat-binding-revoked': 'New policy no longer permits its NAT binding',
  'no-path': 'Far site has no path that is up',
  'tunnel-queue-full': 'Waited for a handshake; the queue is full',
  'egress-queue-full': "The kernel's queue was full",
  'device-down': "The handoff's device is not there",
};

/** Reasons that call for somebody while they go on, and what to do. */
export const ALARMING: Record<string, string> = {
  'nat-pool-exhausted': 'Add addresses to the pool, or widen nat-ports.',
  'nat-required': "Give the handoff a nat-pool, or route the source's prefix.",
  'session-table-full': 'Raise max-sessions, or find who opens so many.',
  'no-path': "See the site's paths below.",
  'device-down': "See the box's log for the device.",
  'egress-queue-full': 'The box cannot send as fast as it takes in.',
  'source-not-allowed': 'A peer sends from addresses it does not own.',
};
