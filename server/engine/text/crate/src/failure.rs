//! What a call of the C ABI can fail with.

/// The values of `modeld_text_kind` in `modeld_text.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ok = 0,
    BrokenFile = 1,
    BadText = 2,
    BadIds = 3,
    BadMessages = 4,
    BadTools = 5,
    BadArgs = 6,
    Refused = 7,
    Failed = 8,
    BadGrammar = 9,
    Unsupported = 10,
    Busy = 11,
    /// Of `watched` only; callers make another kind of it.
    Exhausted = 12,
}

#[derive(Debug)]
pub struct Failure {
    pub kind: Kind,
    pub message: String,
}

impl Failure {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}
