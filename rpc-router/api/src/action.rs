//! The number on a job sheet: one identity that every message about one piece of work carries.
//!
//! An `action_id` is a UUID of version 7 (RFC 9562), so identities sort by the time they were given. Giving new
//! ones needs a clock and randomness and is the runtime's work.

crate::uuid_id! {
    /// Identity of one action.
    ActionId
}
