//! Runs one program in isolated namespaces under seccomp, cgroup limits and no capabilities. Synchronous, usable alone.
//!
//! # Words
//! A *spec* says in kernel terms what a sandbox has; what it does not list does not exist inside. The *launcher* is a
//! small single-threaded process, the only one with privileges, that makes sandboxes from specs. Each sandbox has an
//! *init*, process 1 of its namespace, which builds the inside stage by stage, starts the *step* (the program), reaps,
//! and dies with everything else when the step ends. An *outcome* says how it ended, what it used, and which
//! *protections* were in force.
//!
//! # Invariants
//! The threaded caller never forks. A needed protection that is missing refuses the launch unless its lack is allowed by
//! name. No process of a sandbox is alive when its outcome exists. No descriptor but 0, 1 and 2 reaches the step.
//!
//! # Entry points
//! [`command::Command`], in the shape of `std::process::Command`, is the short way. What it stands on:
//! [`launcher::entry`] first in `main`, then [`launcher::Launcher::start`] before any thread, then
//! [`launcher::Launcher::launch`] with a [`spec::Spec`].

pub mod additions;
pub mod command;
pub mod error;
pub mod host;
pub mod launcher;
pub mod lineage;
mod octets;
pub mod onlooker;
pub mod outcome;
pub mod privileges;
pub mod protection;
pub mod raw;
pub mod series;
pub mod sockets;
pub mod spec;

mod area;
mod assess;
mod assign;
mod cgroup;
mod disk;
mod evaluate;
mod ground;
mod handshake;
mod held;
mod hierarchy;
mod init;
mod measure;
mod netlink;
mod netns;
mod notices;
mod plan;
mod profiles;
mod refused;
mod root;
mod running;
mod seccomp;
mod serve;
mod share;
mod skeleton;
mod slot;
mod sources;
mod start;
mod step;
mod sys;
mod ticks;
mod trial;
mod userns;
mod victim;
mod vigil;
mod warden;
