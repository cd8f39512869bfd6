//! What a host, or somebody who says he is one, can take of this controller at most: each limit with its reason.
//!
//! Together they bound memory and descriptors whatever comes in: descriptors by [`SESSIONS_MAX`] and [`LOGINS_MAX`];
//! memory by [`MEMORY_KIB`] for the data of commands, plus per connection one PDU that is being received, the replies
//! that wait ([`REPLIES_MAX`] of small ones; those with data are counted in the memory) and a task table of
//! [`super::session::DEPTH`].

use std::time::Duration;

/// Sessions that are served at once. A cluster of 500 hosts with two ports and two initiators each needs 2,000 on a
/// controller. More are refused at the end of their login with `out of resources` (0302h).
pub const SESSIONS_MAX: usize = 2048;
/// Connections that are logging in at once. More wait in the listen queue, as in the storm after a failover.
pub const LOGINS_MAX: usize = 512;
/// The same from one address; more are closed. So one machine cannot take the places of all others.
pub const LOGINS_PER_ADDRESS: usize = 128;
/// Descriptors beside those of sessions and logins: volumes' sockets, the router, the interconnect.
pub const OTHER_DESCRIPTORS: usize = 512;
/// How long a whole login may take; what initiators themselves wait (`node.conn[0].timeo.login_timeout` is 15 s).
pub const LOGIN_TIME: Duration = Duration::from_secs(15);
/// Requests of one login. Both authentications with every key in a request of its own take fewer than 40.
pub const LOGIN_REQUESTS: u32 = 64;
/// Longest data segment before the login is done (RFC 7143, 13.12: 8192 until something else is declared).
pub const LOGIN_SEGMENT: usize = 8192;
/// Text of one request, all its parts together. Real ones have less than 1 KiB.
pub const TEXT_MAX: usize = 16 * 1024;
/// Keys of one request, and of one login. There are some 35 in the standard.
pub const KEYS_MAX: usize = 256;
/// Data of commands of all sessions that is in memory at once, KiB: 16 hosts with full queues of 256 KiB. So much for
/// data that the target asks for or reads, which can wait until there is room, and as much again for data that comes
/// with commands, which cannot: reads never take the room of writes.
pub const MEMORY_KIB: u32 = 512 * 1024;
/// The same of one session, KiB: a full queue of 256 KiB.
pub const SESSION_MEMORY_KIB: u32 = 32 * 1024;
/// Replies that wait to be written before the target stops reading from the host, bytes.
pub const REPLIES_MAX: usize = 16 * 1024 * 1024;
/// Commands that came ahead of their turn wait with their data; on one connection they come in turn (RFC 7143,
/// 4.2.2.1), so more than a few are no accident.
pub const EARLY_BYTES_MAX: usize = 256 * 1024;
/// A host that takes nothing of what is written to it for so long is gone.
pub const WRITE_STALL: Duration = Duration::from_secs(20);
/// After so long without a word the host is asked whether it is there.
pub const PING_AFTER: Duration = Duration::from_secs(5);
/// It has so long to say anything at all. Together with the former less than what multipath hosts need to give up a
/// path, and more than a virtual machine that is moved stands still.
pub const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// Discovery sessions ask and go; one that says nothing for so long is ended.
pub const DISCOVERY_IDLE: Duration = Duration::from_secs(30);
/// How long the last replies of a session may take to leave.
pub const LAST_WORDS: Duration = Duration::from_secs(5);
