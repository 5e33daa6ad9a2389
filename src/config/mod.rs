//! Configuration: TOML files in, a [`Candidate`] out, or all [`Problems`] at once as `file:line: message`.
//!
//! A configuration is a directory: `popgate.toml` for the box, `tenants/NAME.toml` for each customer, and key files wherever
//! these name them. [`load`] reads it in the order of this module's files: `reader` turns text into typed values with their
//! lines (`values` knows what a duration or a prefix looks like, `keys` what a key does), `appliance` reads the box,
//! `tenant` each customer, and `scope` keeps what belongs to whom. Nobody stops at the first problem. What comes out
//! has every name resolved and every file read, so that `tables` can compile it without failing.
//!
//! `config/examples` shows every key in its place. What follows is the reference.
//!
//! # Values
//!
//! * A *name* is 1 to 31 of `a-z`, `0-9` and `-`, beginning with a letter or digit.
//! * A *duration* is a whole number with its unit: `"150ms"`, `"60s"`, `"5m"`, `"2h"`, `"30d"`.
//! * A *rate* is a whole number with its unit, of bits a second: `"512kbit"`, `"20mbit"`, `"1gbit"`.
//! * A *prefix* is `"10.1.0.0/16"` or `"2001:db8::/32"` without host bits, or an address, meaning that one alone.
//! * An *endpoint* is `"192.0.2.1:51820"` or `"[2001:db8::1]:51820"`. Host names are not resolved.
//! * A *key* is WireGuard's: 32 bytes in base64. A *key file* holds one; its name is relative to the directory, and nobody
//!   but its owner may read it (mode 0600).
//! * An *interface* is a Linux network interface's name.
//! * A list is never empty: leave the key out instead.
//!
//! Unknown keys are problems, everywhere.
//!
//! # `popgate.toml`
//!
//! | key | value | default | |
//! | --- | --- | --- | --- |
//! | `site` | name | | this box |
//! | `role` | `"pop"`, `"branch"` | | |
//! | `metro` | name | none | the PoPs of one metro are one logical PoP |
//! | `facility` | text | none | which building |
//! | `state-dir` | absolute path | `/var/lib/popgate` | users, the box's own token, revisions, NAT ledger, flow history |
//! | `max-sessions` | 1,000 to 100,000,000 | 1,000,000 | |
//! | `workers` | 1 to 64 | `pop`: one a processor; `branch`: 1 | threads that forward; changes only with a restart |
//! | `icmp-source` | list of addresses, one per family | `192.0.0.8`, `fd70:6f70:6761:7465::1` | source of ICMP errors towards tenants |
//! | `private-key-file` | key file | | role `pop` only: the PoP's key |
//! | `internet-device` | interface | `pg-internet` | role `pop` only: the TUN device that NAT pools are routed to |
//!
//! `[[transport]]`, at least one: an underlay attachment.
//!
//! | key | value | default | |
//! | --- | --- | --- | --- |
//! | `name` | name | | |
//! | `listen` | address and port | | no two the same, except on different interfaces |
//! | `interface` | interface | any | send and receive there alone |
//! | `mtu` | 1280 to 9216 | 1500 | the underlay's, in bytes |
//! | `bandwidth` | rate | unlimited | what may be sent over it, IP and UDP headers included; a little less than the line has, so that what waits waits here and not there |
//!
//! `[admin]`: where API and console are.
//!
//! | key | value | default | |
//! | --- | --- | --- | --- |
//! | `listen` | address and port | `127.0.0.1:8443` | on loopback, without TLS: for the box itself, and through SSH |
//! | `tls-listen` | address and port, or a list | none | for others, over TLS |
//! | `names` | host name, or a list | none | by which the box may be asked for there, besides its addresses |
//! | `certificate-file`, `key-file` | files in PEM | made at the first start, in `state-dir` | the certificate, with those it was signed by, and its key; read again when they change |
//!
//! `[admin.acme]`, optional: who signs the certificate for `names`, asked by ACME (RFC 8555) over and over as it comes to its end; in
//! place of `certificate-file`.
//!
//! | key | value | default | |
//! | --- | --- | --- | --- |
//! | `directory` | `"https://HOST/…"` | | the URL of the authority's ACME directory |
//! | `contact` | address of mail, or a list | none | whom it writes to |
//! | `terms-agreed` | `true` | | that the authority's terms are agreed to |
//! | `ca-file` | file of certificates (PEM) | Debian's | who may have signed the certificate of the directory itself |
//!
//! The authority comes to `tls-listen` to see that the names are this box's (TLS-ALPN-01, RFC 8737), at port 443.
//!
//! `[admin.oidc]`, optional: an OpenID Connect provider where people may sign in who have no password here. Files' names are
//! relative to the directory. Of `[admin]` this changes without a restart.
//!
//! | key | value | default | |
//! | --- | --- | --- | --- |
//! | `issuer` | `"https://HOST/…"` | | as the provider writes it; what else there is to know it tells below `/.well-known/openid-configuration` |
//! | `client-id` | text | | what the box is to the provider |
//! | `client-secret-file` | file of one secret | | and what it proves that with |
//! | `label` | text | | what people call the provider: the button says `Sign in with …` |
//! | `console` | `"https://HOST"` or `"https://HOST:PORT"` | | where browsers find the console and come back to; the provider has to know it with `/api/v1/oidc/callback` behind it |
//! | `scopes` | list of scopes | `["profile"]` | asked for besides `openid`: what `groups-claim` takes |
//! | `name-claim` | claim | `"preferred_username"` | what somebody is shown as, behind `oidc:` |
//! | `groups-claim` | claim | `"groups"` | a list of texts, or one text |
//! | `ca-file` | file of certificates (PEM) | Debian's | who may have signed the provider's certificate |
//!
//! `[[admin.oidc.rule]]`, at least one. The first that fits decides; whom none fits is not let in.
//!
//! | key | value | default | |
//! | --- | --- | --- | --- |
//! | `group` | text | | whoever is in this group |
//! | `role` | `"viewer"`, `"operator"`, `"owner"` | | is this |
//! | `tenant` | tenant's name | the whole box | of that tenant alone; not for owners |
//!
//! `[export]`: `active-timeout`, how often a lasting session is reported, 1 s to 1 h, 60 s by default; `packet-sampling`, 1
//! to 1,000,000, one packet in how many is shown to collectors that speak sFlow, 1,000 by default.
//! `[[export.collector]]`, any number: where flow records go. Each has its own protocol, transport and choice of records.
//!
//! | key | value | default | |
//! | --- | --- | --- | --- |
//! | `name` | name | | |
//! | `address` | endpoint | | |
//! | `protocol` | `"ipfix"`, `"netflow-v9"`, `"sflow"` | `"ipfix"` | sFlow has packet samples and counters of paths and handoffs in place of sessions |
//! | `transport` | `"udp"`, `"tcp"`, `"tls"` | `"udp"` | other than UDP for IPFIX alone |
//! | `observation-domain` | number | 0 | which exporter it is, where several have one address; NetFlow v9 calls it source id |
//! | `biflow` | boolean | `false` | whether a session is one record, both ways (RFC 5103), and not two; not every collector reads it |
//!
//! `[export.collector.filter]`, optional: which records.
//!
//! | key | value | default | |
//! | --- | --- | --- | --- |
//! | `tenants` | list of tenants' names | all | |
//! | `records` | list of `"flows"`, `"nat-events"` | `["flows"]` | sessions; who was given which outside ports, and who got none |
//!
//! `[export.collector.tls]`, for transport `"tls"`. Files' names are relative to the directory.
//!
//! | key | value | default | |
//! | --- | --- | --- | --- |
//! | `ca-file` | file of certificates (PEM) | | who may have signed the collector's certificate |
//! | `server-name` | host name or address | that of `address` | whose certificate it must be |
//! | `certificate-file`, `key-file` | file of certificates, key file (PEM) | none | what the box proves itself with |
//!
//! `[flow-history]`: keeps on disk a record of every flow, for `popgate flows` and whatever else reads Parquet; without it nothing is
//! kept beyond the last 20,000.
//!
//! | key | required | meaning |
//! | --- | --- | --- |
//! | `keep` | default `"30d"` | records that are older are deleted; `"1h"` to `"3650d"` |
//! | `keep-rollups` | default `"400d"` | and so are sums by minute, five minutes and hour |
//! | `tenant-quota` | default `"5GB"` | of each tenant the oldest is deleted before its files are larger together; at least `"50MB"` |
//!
//! `[flow-history.object-store]`: copies files of records, once nothing is added to them any more, to a store that speaks S3.
//! Files' names are relative to the directory.
//!
//! | key | value | default | |
//! | --- | --- | --- | --- |
//! | `endpoint` | `"https://HOST"`, `"https://HOST:PORT"`, or with `http` | | |
//! | `bucket` | a bucket's name | | it is there already |
//! | `prefix` | `"FOLDER/"` | the site's name | what objects' names begin with; each box needs its own |
//! | `region` | a region's name | `"us-east-1"` | |
//! | `credentials-file` | file of secrets | | its lines `aws_access_key_id = …` and `aws_secret_access_key = …` |
//! | `ca-file` | file of certificates (PEM) | Debian's | who may have signed the store's certificate |
//!
//! `[nat-ledger]`: keeps on disk who had which outside address and port, for `popgate who-had`; without it nothing is kept.
//! Whether there is one changes only with a restart.
//!
//! | key | value | default | |
//! | --- | --- | --- | --- |
//! | `keep` | duration, 1h to 3650d | `"30d"` | what ended longer ago is deleted |
//! | `max-size` | `"500MB"`, `"10GB"`, `"2TB"`; at least 200MB | `"10GB"` | the oldest is deleted before there is more |
//!
//! `[commit-guard]`: when a commit is taken back by itself, because the box is worse off with it.
//!
//! | key | value | default | |
//! | --- | --- | --- | --- |
//! | `watch` | duration, 5s to 1h | `"30s"` | for how long; one that is still to be confirmed is watched until it is |
//! | `tunnels-lost` | share | `"10%"` | of the tunnels that were up this many may be down for longer than 3 s |
//! | `drops` | share | however many | of all packets this many more may be dropped than before |
//!
//! `[audit]`: `syslog`, the address and port that each entry of the audit log is sent to as well, as RFC 5424 has it, over UDP.
//!
//! `[[interface]]`, any number: the box's own interfaces, whose addresses systemd-networkd is told to keep as these say. Without any,
//! somebody else keeps them.
//!
//! | key | value | default | |
//! | --- | --- | --- | --- |
//! | `name` | interface | | |
//! | `vlan`, `of` | 1 to 4094, interface | none | it is made: this 802.1Q VLAN of that one |
//! | `address` | list of `"10.1.0.1/24"`, `"dhcp"`, `"ra"` | | one by DHCP; those that routers advertise |
//! | `gateway` | address, or one of each family | none | for all that has no other way |
//! | `dns` | address, or a list | none | whom the box itself asks for names |
//! | `mtu` | 1280 to 9216 | the interface's | bytes |
//!
//! Role `branch` only:
//!
//! `[lan]`: `device`, the TUN device the LAN's traffic is led through, `pg-lan` by default; `interfaces`, a list of those
//! whose traffic is led into it, none by default; `advertise`, whether the networks of /64 of their `[[interface]]` are advertised
//! to hosts, `false` by default.
//!
//! `[[lan.dhcp]]`, any number: addresses for the LAN's hosts, in a network that an `[[interface]]` of the LAN is in.
//!
//! | key | value | default | |
//! | --- | --- | --- | --- |
//! | `range` | `"FIRST-LAST"` | | IPv4 addresses; not the box's own |
//! | `lease` | duration, 2m to 365d | `"12h"` | |
//! | `domain` | domain | none | hosts' names end in it |
//! | `dns` | IPv4 address, or a list | the box, if there is `[lan.dns]` | whom hosts are to ask for names |
//!
//! and `[[lan.dhcp.host]]`, any number: `name`, `mac`, `address`, of a host that always gets the same.
//!
//! `[lan.dns]`: the box answers the LAN's hosts' questions for names. `upstream`, an address or a list, whom it asks, from its own
//! address on the LAN: as a host there would, under the policy and by its paths; `domains`, `{ "DOMAIN" = ADDRESS or list }`, whom
//! it asks for what lies in a domain.
//!
//! `[breakout]`, optional: a way straight out to the internet, which path policies call `"breakout"`. A session that begins
//! takes it if it is up and no path that stands before it is, goes to an internet handoff's prefixes, in IPv4, and is TCP, UDP
//! or ICMP. Its address outside is the branch's: it stays on the way it has, and only where that is dead and its class's
//! `resilience` is not `"none"` does it go on as a new session by a path, with another address.
//!
//! | key | value | default | |
//! | --- | --- | --- | --- |
//! | `interface` | interface | | its own address, as it is at the time, is translated to |
//! | `nat-ports` | `"FIRST-LAST"` | `"52000-65535"` | none that the box listens on |
//! | `device` | interface | `pg-breakout` | the TUN device |
//! | `probe-target` | IPv4 address, or a list of up to 4 | none | hosts that answer pings. The way is measured and judged as a path is, by echo requests to all of them, of which the first reply counts: half of the round trip as the latency of either direction, and a loss in both. Without it, the way is taken to be up. The first of `nat-ports` is then the probes' |
//!
//! `[[pop]]`, at least one: `name`, `public-key`, and `[[pop.path]]`, at least one:
//!
//! | key | value | default | |
//! | --- | --- | --- | --- |
//! | `name` | name | | as in path policies; unique at the branch |
//! | `transport` | a transport's name | | |
//! | `endpoint` | endpoint | | the PoP's transport |
//! | `private-key-file` | key file | | this path's own |
//! | `preshared-key-file` | key file | none | |
//! | `persistent-keepalive` | duration of whole seconds | none | |
//! | `bandwidth` | rate | unlimited | what the branch may send by it |
//!
//! # `tenants/NAME.toml`
//!
//! The same file may lie at the PoP and at the tenant's branches; a branch has exactly one, and its `site` is one of the
//! branches in it. Transports and preshared keys named here are the PoP's and are not looked for at a branch.
//!
//! `tenant`: its name, which is also the file's.
//!
//! `[[branch]]`: `name`; `prefixes`, a list. Within a tenant no two branches or handoffs have the same prefix, though one may
//! have a more specific one of another's; between tenants prefixes may overlap as they like. `[[branch.path]]`, any number:
//!
//! | key | value | default | |
//! | --- | --- | --- | --- |
//! | `name` | name | | unique within the branch |
//! | `public-key` | key | | unique in the whole configuration |
//! | `transport` | a transport's name | any | only accepted there |
//! | `preshared-key-file` | key file | none | |
//! | `endpoint` | endpoint | none | call the branch there; without it, it calls first |
//! | `persistent-keepalive` | duration of whole seconds | none | |
//! | `bandwidth` | rate | unlimited | what the PoP may send to the branch by it |
//! | `probe-target` | an address of the branch's | none | a host that answers pings from `icmp-source`, where the branch is a stock WireGuard client: the path is measured by echo requests to it, as `[breakout]` is, and down when they are not answered |
//!
//! `[[handoff]]`: `name`, `kind`, and by kind:
//!
//! | key | value | default | |
//! | --- | --- | --- | --- |
//! | `prefixes` | list of prefixes | `internet`: `0.0.0.0/0`, `::/0` | what is reached through it |
//! | `nat-pool` | list of IPv4 prefixes | none | kind `internet`: overlaps no other pool |
//! | `masquerade` | interface | none | kind `internet`, instead of `nat-pool`: its own address, as it is at the time |
//! | `nat-ports` | `"FIRST-LAST"` | `"1024-65535"`; with `masquerade` `"52000-65535"` | kind `internet`; the same for all who masquerade on one interface, and none the box listens on |
//! | `nat-filtering` | `"endpoint-independent"`, `"address-dependent"` or `"address-and-port-dependent"` | `"address-and-port-dependent"` | kind `internet`: who may send to what a host is known by (RFC 4787 section 5) |
//! | `nat64-prefix` | IPv6 prefix of /32, /40, /48, /56, /64 or /96 | none | kind `internet`, with a pool: within it IPv6 hosts find IPv4's addresses (RFC 6052). `"64:ff9b::/96"` leads to global ones only |
//! | `map` | `{ "PREFIX" = "PREFIX" }` | none | kind `internet`: a branch's prefix and what it is known by, host by host; overlaps nothing else out there |
//! | `[[handoff.port-forward]]` | `name`, `protocol` (`"tcp"`, `"udp"`), `address` and `to` (endpoints) | none | kind `internet`: `address` is of the pool and its port not of `nat-ports` |
//! | `routed` | list of prefixes | none | kind `internet`: not translated; part of the branches' prefixes, overlaps no pool and no other tenant's |
//! | `interface` | interface | | kind `private`: moved into the tenant's network namespace |
//! | `vlan` | 1 to 4094 | none | kind `private`: an 802.1Q interface of `interface`, which stays where it is, is made there instead |
//! | `address` | list of `"10.200.0.1/24"`, `"dhcp"`, `"ra"` | | kind `private`: the interface's; one by DHCP; those that routers advertise |
//! | `routes` | `{ "PREFIX" = "NEXT HOP" }` | none | kind `private` |
//!
//! `[[publish]]`, any number: a service that other tenants may call, if they are subscribers.
//!
//! | key | value | default | |
//! | --- | --- | --- | --- |
//! | `name` | name | | |
//! | `host` | address | | in a branch's or private handoff's prefixes |
//! | `protocol`, `dst-port` | as in rules | `dst-port`: all | or `service`, service groups' names |
//!
//! `[[subscriber]]`, at most one per tenant: `tenant`, another one's name; `services`, a list of names of what is published;
//! `known-as`, a prefix or a list of them that nobody else has here: the addresses by which its hosts are known.
//!
//! `[[subscribe]]`, at most one per tenant: `tenant`, the publisher's name, whose file must have a `[[subscriber]]` for this
//! one; `services`, `{ NAME = "ADDRESS" }`, the address by which each is called here; `map`, `{ "PREFIX" = "PREFIX" }`, own
//! prefixes and what they are known by there, host by host, within what the publisher's `known-as` says. The publisher's ACL
//! is asked as well as the subscriber's, and only who subscribes can begin.
//!
//! `[[app]]`, any number: what an application is known by. It adds to the catalog that comes with the binary (`popgate apps`
//! lists it), or takes the place of what has its name there.
//!
//! | key | value | default | |
//! | --- | --- | --- | --- |
//! | `name` | name | what it extends | |
//! | `extends` | an app's name in the catalog | none | begins with what that one is known by |
//! | `domains` | list of domains | none | |
//! | `prefixes` | list of prefixes | none | |
//! | `ports` | list of `"tcp/443"`, `"udp/3478-3481"` | any | destination ports |
//!
//! A flow is an app's if its name lies in one of the domains or its destination in one of the prefixes, and, where there are
//! ports, protocol and destination port are among them; an app without domains and prefixes is known by its ports alone. A
//! *domain*, `"sap.example"`, stands for itself and everything below it; `"*.sap.example"` is another way to write it. A
//! flow's *name* is what the client calls the server at its beginning (TLS and QUIC server name, HTTP host); until that is
//! known, the name that DNS answers gave its destination's address. Names count in `[[app-class]]` alone: rules that come
//! after it ask for the class.
//!
//! `dns-teachers`, a list of prefixes: whose DNS answers may teach which name an address has. Without it, any resolver's
//! that a host of the tenant's asks; a host that asks one of its own can then give any address any name.
//!
//! `whereabouts`, a list of at most one address of each family: where a PoP itself answers the hosts behind its tunnels at TCP
//! port 80, and is called `popgate.internal`, a name that it gives to whoever asks any resolver beyond it over UDP. It says at
//! which site they are, by which path, and by which public address they are known. `"none"`: nowhere. Without it, `198.18.0.80` and
//! `fd70:6f70:6761:7465::80`, as far as no branch and no private handoff has them. To policy it is an address behind the first
//! `internet` handoff: a branch's ACL must let its hosts go there; at the PoP no ACL is asked.
//!
//! `[[address-group]]`, any number: `name`; `addresses`, a list of what `from` and `to` take, other groups included.
//! `[[service-group]]`, any number: `name`; `services`, a list of other groups' names and of tables with `protocol`, which
//! must be there, `src-port` and `dst-port`. No group is in itself.
//!
//! `[[app-class]]`, tried in order: `name`, not `default`; `match`, a list of tables with the flow's keys (below) except
//! `class`, and with `app` and `domain`; any of them may match; and, all of them optional,
//!
//! | key | value | default | |
//! | --- | --- | --- | --- |
//! | `queue` | `"priority"` | by `weight` | where a bandwidth is limited, its packets leave before all others; one class's. Beyond three quarters of the bandwidth they take turns with others |
//! | `weight` | 1 to 100 | 10, which the default class has too | its share of a limited bandwidth, beside those of others that have something to send |
//! | `set-dscp` | as `dscp` below | as it came | what its packets carry from here on, both ways |
//!
//! What waits for a limited bandwidth is kept short, flow by flow within each class, by FQ-CoDel (RFC 8290): senders are told to
//! slow down by a mark (ECN) or a loss. The datagram around a packet carries its DSCP. For each DSCP that a class sets, paths are
//! measured by probes of their own that carry it, and an `sla-class` that such a class asks for is judged by these; classes that
//! set none are judged by probes that carry best effort. Not so where echo requests are the probes.
//!
//! `[[acl]]`, tried in order, default deny: `name`; the flow's keys; `action`: `"accept"`, `"drop"` or `"reject"`; and
//!
//! | key | value | default | |
//! | --- | --- | --- | --- |
//! | `direction` | `"outbound"`, `"inbound"`, `"any"` | `"any"` | by who begins: a branch or LAN, or what is behind a handoff or in another tenant |
//! | `log` | `true`, `false` | `false` | a line in the log for each session that the rule decides on; 10 a second and worker |
//!
//! `[[nat]]`, tried in order; what matches none takes its handoff's whole pool: `name`; the flow's keys; and either `pool`, a
//! list of prefixes of the pool of each handoff that `to` names, or `no-nat = true`, for `from` within `routed`.
//!
//! `max-sessions`, of the tenant's, which may not be more than the box's; and in a `[[branch]]` of that branch's, with
//! `new-sessions-per-second`: none unless given.
//!
//! `[session-timeouts]`, durations without a packet, 1s to 168h: `tcp-established` (124m), `tcp-transitory` (4m), `udp` (5m),
//! `icmp` (60s), `other` (5m).
//!
//! `[[sla-class]]`: what a class of apps needs of a path, in the direction that is sent in; at least one of the limits.
//!
//! | key | value | |
//! | --- | --- | --- |
//! | `name` | name | |
//! | `max-loss` | share, `"1%"` | of packets of all kinds |
//! | `max-latency` | duration | one way, of 95 packets of 100 |
//! | `max-jitter` | duration | interarrival jitter (RFC 3550) |
//! | `min-mos` | score, `"4.0"` | of a call (ITU-T G.107) |
//!
//! `[[path-policy]]`, at most one per class.
//!
//! | key | value | default | |
//! | --- | --- | --- | --- |
//! | `class` | a class's name, or `"default"` | | |
//! | `prefer` | list of path names | | best first; and `"breakout"`, straight out of the branch. A list among them, `["dsl", "lte"]`, is of equal paths, which share the sessions |
//! | `weights` | `{ PATH = 1 to 100 }` | in proportion to `bandwidth`, of the path or the branch's transport; otherwise 1 | of equal paths: what each takes |
//! | `sla-class` | an SLA class's name | none | a path that breaks it is avoided while another keeps to it; in at most 14 policies |
//! | `on-violation` | `"best-of-worst"`, `"backup"`, `"strict"` | `"best-of-worst"` | where none does: the one that breaks it least; the first that is alive; none, and what is sent is dropped |
//! | `resilience` | `"none"`, `"failover"`, `"revertible"` | `"revertible"` | running sessions stay on the path they began on, and are lost with it; or leave one that is dead or breaks the SLA, and stay where they then are; or always take the best. One that breaks out of the branch leaves only where that way is dead, as a new session |
//! | `remediation` | `"none"`, `"duplicate-on-suspect"`, `"duplicate-always"` | `"none"` | packets go by the next path that is alive as well, while the first may be dead, or always; the far end, which must be a popgate, passes the first copy on |
//!
//! `[[policy-test]]`, any number, is no policy but a question with its answer: `popgate check` and every commit ask them all.
//! A branch box asks those of its own LAN's flows.
//!
//! | key | value | default | |
//! | --- | --- | --- | --- |
//! | `name` | name | | |
//! | `from` | address, or address and port | | the host that begins |
//! | `to` | address, or address and port | | |
//! | `protocol` | as in rules | | or `service`, a service group's name: each protocol and first port of its ranges |
//! | `dscp` | as in rules | 0 | |
//! | `sni` | host name | none | what the client calls the server in its first bytes (TLS, QUIC) |
//! | `expect` | `"accept"`, `"drop"`, `"reject"` | | |
//! | `class`, `rule`, `handoff` | a name | any | the class it is of, the rule that decides, the handoff it goes to |
//! | `path` | list of path names | any | those it takes first, in their order |
//! | `nat` | prefix | any | what its source is translated to lies in it |
//!
//! `[[canary]]`, at most 16 for each tenant: what must stay reachable from a branch's side. It is probed once a second while a
//! commit is on trial (`[commit-guard]`). The commit is taken back when one that answered right before does not for longer than
//! 3 s; one that is new with the commit is no reason.
//!
//! | key | value | default | |
//! | --- | --- | --- | --- |
//! | `name` | name | | |
//! | `from` | a branch's name | | |
//! | `source` | an address of the branch's | the first host of its first prefix of the target's family | whose packet the probe is |
//! | `target` | address | | not of the branch itself |
//! | `kind` | `"ping"`, `"tcp"` | `"ping"` | what counts as an answer, within 0.9 s: an echo reply; that a connection is accepted, which is reset at once |
//! | `port` | number | | kind `tcp` |
//!
//! A probe is made by the box that the commit is on, as a packet that has come from the branch: at a PoP as if out of its
//! tunnel, at the branch itself as if from its LAN, and other branches' are left alone there. So rules, classes, NAT and routes
//! decide on it as on any host's, and its answer is taken where it would have gone back to the branch. Nothing depends on a host
//! there that has time for it, nor on what is at the other end of the tunnel. It leaves no flow record, and what it holds (a
//! session, a port of a pool) ends with its answer.
//!
//! The flow's keys. Each takes one value or a list of them; one that is left out matches everything.
//!
//! | key | value |
//! | --- | --- |
//! | `from`, `to` | prefix, `"branch:NAME"`, `"handoff:NAME"`, `"group:NAME"` of an address group, `"service:TENANT/NAME"`, which is the address it is called by, `"tenant:NAME"`, which is a subscriber's hosts or a publisher's services |
//! | `service` | name of a service group; in place of `protocol`, `src-port` and `dst-port` |
//! | `protocol` | `"tcp"`, `"udp"`, `"icmp"`, `"icmpv6"`, or a number |
//! | `src-port`, `dst-port` | number or `"FIRST-LAST"`; `protocol` must be TCP or UDP |
//! | `dscp` | `"ef"`, `"va"`, `"le"`, `"cs0"` to `"cs7"`, `"af11"` to `"af43"`, or 0 to 63 |
//! | `class` | name of an app class, or `"default"` |
//! | `app` | name of an app; in `[[app-class]]` alone |
//! | `domain` | domain that the flow's name lies in; in `[[app-class]]` alone |
//!
//! Of a flow into a `nat64-prefix`, rules are asked about the IPv4 address that is meant, and its ping is `icmp`.

mod acme;
mod admin;
mod appliance;
mod apps;
mod candidate;
mod documents;
mod export;
mod groups;
mod interfaces;
mod keys;
mod object_store;
mod oidc;
mod problem;
mod reader;
mod scope;
mod services;
mod tenant;
mod values;
#[cfg(test)]
mod vocabulary;

pub use acme::Acme;
pub use admin::{Admin, AdminTls, IdentityFiles};
pub use apps::{App, AppPorts, CatalogApp, catalog};
pub use candidate::*;
pub use documents::{APPLIANCE_FILE, Documents, STATE_DIR, TENANTS_DIR, providers_part};
pub use export::{CollectorTls, Identity};
pub use interfaces::{DhcpHost, DhcpPool, Interface, LanDns, LanServices, address_range, interfaces_alone};
pub use keys::{NotAKey, public_of};
pub use object_store::{Credentials, ObjectStore};
pub use oidc::{ClientSecret, Oidc, OidcRule};
pub use problem::{Problem, Problems};
pub use values::{
    address, dscp, dscp_name, duration, interface, interface_address, name, prefix, quoted, socket_address,
};

use appliance::{RoleName, Surroundings};
use ipnetwork::IpNetwork;
use problem::{Ledger, Noted};
use scope::Claims;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Reads the configuration in `dir` and everything it names, or says all that is wrong with it.
pub fn load(dir: &Path) -> Result<Candidate, Problems> {
    Documents::read(dir).check(dir)
}

fn read(documents: &Documents, dir: &Path, ledger: &Ledger) -> Result<Candidate, Noted> {
    let mut around = Surroundings::default();
    let mut claims = Claims::default();
    let appliance = documents
        .read_one(APPLIANCE_FILE, ledger, |root| appliance::read(root, dir, &mut around, &mut claims));
    let stems = documents.tenant_stems(ledger);
    if let (Ok(stems), Some((RoleName::Branch, at))) = (&stems, &around.role)
        && stems.len() != 1
    {
        let found =
            if stems.is_empty() { "there is none".to_owned() } else { format!("there are {}", stems.len()) };
        ledger.note(at, format!("role: a branch box has exactly one {TENANTS_DIR}/NAME.toml; {found}"));
        // Which of them it is a branch of, nobody can say.
        around.site = None;
    }
    if let Ok(stems) = &stems {
        for (name, at) in &around.named_tenants {
            if !stems.contains(&name.as_str()) {
                ledger.note(at, problem::unknown("tenant", name, stems.iter().copied()));
            }
        }
    }
    let tenants = stems.and_then(|stems| {
        reader::all(stems.iter().map(|stem| {
            documents.read_one(&format!("{TENANTS_DIR}/{stem}.toml"), ledger, |root| {
                tenant::read(root, stem, dir, &around, &mut claims)
            })
        }))
    });
    claims.check(ledger);
    let tenants: BTreeMap<_, _> = tenants?.into_iter().map(|tenant| (tenant.name.clone(), tenant)).collect();
    // A branch has its own tenant's file alone.
    if let Some((RoleName::Pop, _)) = &around.role {
        services::settle(&tenants, ledger);
    }
    Ok(Candidate { appliance: appliance?, tenants })
}

impl Candidate {
    /// What there is, in a line: `pop fra1, 2 tenants, 3 branches, 4 paths, 12 rules`.
    pub fn summary(&self) -> String {
        let branches = self.tenants.values().flat_map(|tenant| &tenant.branches);
        let rules: usize = self.tenants.values().map(|tenant| tenant.acl.len() + tenant.nat.len()).sum();
        let site = &self.appliance.site;
        match &self.appliance.role {
            Role::Pop(_) => format!(
                "pop {site}, {}, {}, {}, {}",
                count(self.tenants.len(), "tenant", "tenants"),
                count(branches.clone().count(), "branch", "branches"),
                count(branches.map(|branch| branch.paths.len()).sum(), "path", "paths"),
                count(rules, "rule", "rules"),
            ),
            Role::Branch(branch) => format!(
                "branch {site} of {}, {}, {}, {}",
                self.tenants.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
                count(branch.pops.len(), "pop", "pops"),
                count(branch.pops.iter().map(|pop| pop.paths.len()).sum(), "path", "paths"),
                count(rules, "rule", "rules"),
            ),
        }
    }
}

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
