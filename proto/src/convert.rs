//! Wire <-> model, both ways. What a peer sent is checked here and nowhere else: behind this module every value keeps its type's rules.
//!
//! Nothing is filled in on the way back: a required field that is missing, an enumeration's unknown value or a key that
//! stands twice is an error that names the field and the rule.

mod agent;
mod fleet;
mod job;
pub(crate) mod keep;
mod outcome;
#[cfg(test)]
mod round_trip;
mod run;

use std::fmt;
use std::time::Duration;

use caisson_model::id::{AgentName, AttemptId, Digest, Fence, Hold, JobId, JobKey, RunId, StepIndex};
use caisson_model::log::{LogChunk, LogGap, LogKey, LogSeal};
use caisson_model::step::{Condition, Template};
use caisson_model::time::Timestamp;
use indexmap::IndexMap;
use serde_json::Value;

use crate::wire;

/// A message breaks a rule of the contract.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) struct Malformed {
    field: String,
    rule: &'static str,
}

impl Malformed {
    /// A value as a whole breaks `rule`.
    pub(crate) fn new(rule: &'static str) -> Malformed {
        Malformed { field: String::new(), rule }
    }

    pub(crate) fn within(mut self, name: &str) -> Malformed {
        self.field = match (self.field.is_empty(), self.field.starts_with('[')) {
            (true, _) => name.to_owned(),
            (_, true) => format!("{name}{}", self.field),
            _ => format!("{name}.{}", self.field),
        };
        self
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() { f.write_str(self.rule) } else { write!(f, "{}: {}", self.field, self.rule) }
    }
}

/// A model type that has a form on the wire.
pub(crate) trait Cross: Sized {
    /// That form.
    type Wire;

    fn out(self) -> Self::Wire;

    fn back(wire: Self::Wire) -> Result<Self, Malformed>;
}

/// A message field that must be there.
pub(crate) fn required<M: Cross>(field: Option<M::Wire>, name: &str) -> Result<M, Malformed> {
    field.ok_or(Malformed::new("is required")).and_then(M::back).map_err(|e| e.within(name))
}

/// Any other field.
pub(crate) fn field<M: Cross>(value: M::Wire, name: &str) -> Result<M, Malformed> {
    M::back(value).map_err(|e| e.within(name))
}

/// A struct whose wire form is a message with the same field names. `whole` are messages that must be there.
macro_rules! message {
    ($model:ident => $wire:ident { $($name:ident),* } $(whole { $($inner:ident),* })?) => {
        impl $crate::convert::Cross for $model {
            type Wire = $crate::wire::$wire;

            fn out(self) -> Self::Wire {
                $crate::wire::$wire { $($name: $crate::convert::Cross::out(self.$name),)* $($($inner: Some($crate::convert::Cross::out(self.$inner)),)*)? }
            }

            fn back(wire: Self::Wire) -> Result<Self, $crate::convert::Malformed> {
                Ok($model {
                    $($name: $crate::convert::field(wire.$name, stringify!($name))?,)*
                    $($($inner: $crate::convert::required(wire.$inner, stringify!($inner))?,)*)?
                })
            }
        }
    };
}

/// An enumeration whose arms have the same names on both sides.
macro_rules! enumeration {
    ($model:path => $wire:ident { $($arm:ident),* }) => {
        impl $crate::convert::Cross for $model {
            type Wire = i32;

            fn out(self) -> i32 {
                match self {
                    $(<$model>::$arm => $crate::wire::$wire::$arm as i32,)*
                }
            }

            fn back(wire: i32) -> Result<Self, $crate::convert::Malformed> {
                match $crate::wire::$wire::try_from(wire) {
                    $(Ok($crate::wire::$wire::$arm) => Ok(<$model>::$arm),)*
                    _ => Err($crate::convert::Malformed::new(concat!("is not a known ", stringify!($wire)))),
                }
            }
        }
    };
}

use {enumeration, message};

macro_rules! plain {
    ($($type:ty),*) => {
        $(impl Cross for $type {
            type Wire = $type;

            fn out(self) -> $type {
                self
            }

            fn back(wire: $type) -> Result<$type, Malformed> {
                Ok(wire)
            }
        })*
    };
}

plain!(String, bool, u32, u64, i32);

macro_rules! newtype {
    ($($model:ident($wire:ty)),*) => {
        $(impl Cross for $model {
            type Wire = $wire;

            fn out(self) -> $wire {
                self.0
            }

            fn back(wire: $wire) -> Result<$model, Malformed> {
                Ok($model(wire))
            }
        })*
    };
}

newtype!(RunId(u64), Fence(u64), StepIndex(u32), JobKey(String), AgentName(String), Template(String), Condition(String), Timestamp(u64));

impl<M: Cross> Cross for Option<M> {
    type Wire = Option<M::Wire>;

    fn out(self) -> Self::Wire {
        self.map(M::out)
    }

    fn back(wire: Self::Wire) -> Result<Self, Malformed> {
        wire.map(M::back).transpose()
    }
}

impl<M: Cross> Cross for Vec<M> {
    type Wire = Vec<M::Wire>;

    fn out(self) -> Self::Wire {
        self.into_iter().map(M::out).collect()
    }

    fn back(wire: Self::Wire) -> Result<Self, Malformed> {
        wire.into_iter().enumerate().map(|(i, item)| M::back(item).map_err(|e| e.within(&format!("[{i}]")))).collect()
    }
}

impl<M: Cross> Cross for Box<M> {
    type Wire = M::Wire;

    fn out(self) -> Self::Wire {
        (*self).out()
    }

    fn back(wire: Self::Wire) -> Result<Self, Malformed> {
        M::back(wire).map(Box::new)
    }
}

impl Cross for u16 {
    type Wire = u32;

    fn out(self) -> u32 {
        self.into()
    }

    fn back(wire: u32) -> Result<u16, Malformed> {
        wire.try_into().map_err(|_| Malformed::new("is at most 65535"))
    }
}

impl Cross for Duration {
    type Wire = u64;

    fn out(self) -> u64 {
        // 584 years; whoever means "without limit" loses nothing.
        u64::try_from(self.as_nanos()).unwrap_or(u64::MAX)
    }

    fn back(wire: u64) -> Result<Duration, Malformed> {
        Ok(Duration::from_nanos(wire))
    }
}

impl Cross for Digest {
    type Wire = Vec<u8>;

    fn out(self) -> Vec<u8> {
        self.0.to_vec()
    }

    fn back(wire: Vec<u8>) -> Result<Digest, Malformed> {
        wire.try_into().map(Digest).map_err(|_| Malformed::new("is a digest of 32 bytes"))
    }
}

impl Cross for Value {
    type Wire = String;

    fn out(self) -> String {
        self.to_string()
    }

    fn back(wire: String) -> Result<Value, Malformed> {
        serde_json::from_str(&wire).map_err(|_| Malformed::new("is JSON text"))
    }
}

impl<M: Cross<Wire = String>> Cross for (String, M) {
    type Wire = wire::Entry;

    fn out(self) -> wire::Entry {
        wire::Entry { key: self.0, value: self.1.out() }
    }

    fn back(wire: wire::Entry) -> Result<Self, Malformed> {
        let value = field(wire.value, &wire.key)?;
        Ok((wire.key, value))
    }
}

impl Cross for IndexMap<String, String> {
    type Wire = Vec<wire::Entry>;

    fn out(self) -> Self::Wire {
        self.into_iter().map(|(key, value)| wire::Entry { key, value }).collect()
    }

    fn back(wire: Self::Wire) -> Result<Self, Malformed> {
        unique(wire.into_iter().map(|entry| Ok((entry.key, entry.value))))
    }
}

/// A table whose keys stand in it once.
fn unique<V>(entries: impl Iterator<Item = Result<(String, V), Malformed>>) -> Result<IndexMap<String, V>, Malformed> {
    let mut table = IndexMap::new();
    for entry in entries {
        let (key, value) = entry?;
        match table.entry(key) {
            indexmap::map::Entry::Occupied(there) => return Err(Malformed::new("stands in the table twice").within(there.key())),
            indexmap::map::Entry::Vacant(free) => free.insert(value),
        };
    }
    Ok(table)
}

message!(JobId => JobId { run, index });
message!(AttemptId => AttemptId { number } whole { job });
message!(Hold => Hold { fence } whole { attempt });
message!(LogKey => LogKey { step } whole { attempt });
message!(LogGap => LogGap { offset, bytes, reason });
message!(LogSeal => LogSeal { total, digest, chain, gaps });

impl Cross for LogChunk {
    type Wire = wire::LogChunk;

    fn out(self) -> wire::LogChunk {
        wire::LogChunk { offset: self.offset, at: self.at.0, bytes: self.bytes }
    }

    fn back(wire: wire::LogChunk) -> Result<LogChunk, Malformed> {
        if wire.bytes.is_empty() || wire.bytes.len() > caisson_model::log::CHUNK_BYTES {
            return Err(Malformed::new("is 1 to 65536 bytes").within("bytes"));
        }
        Ok(LogChunk { offset: wire.offset, at: Timestamp(wire.at), bytes: wire.bytes })
    }
}
