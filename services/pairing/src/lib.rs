//! How two controllers come to know each other, as two telephones do: one shows a short code, a person types it on the
//! other, and from then on each knows the other's key and talks to nobody else.
//!
//! * [`identity`]: a controller's own key and the partner's, pinned, in the key store.
//! * [`tls`]: a TLS 1.3 session between exactly these two keys.
//! * [`code`], [`exchange`]: the code, and the conversation in which it makes strangers partners.
//!
//! The code has 8 digits. It is never sent, and neither is anything from which it could be found out by trying: both
//! sides prove to each other that they know it (SPAKE2), and each try to guess it takes a conversation of its own, of
//! which the side that shows the code allows three.
//!
//! It must never take a secret from the command line or the environment, print one but the code, or replace a key that
//! is pinned without the code.

#![forbid(unsafe_code)]

pub mod code;
pub mod exchange;
pub mod identity;
pub mod tls;

pub use identity::{Identity, IdentityError, PublicKey};
