//! The system call filter: profiles are data, compiled once to a balanced tree of ranges (seccomp(2), 3.17). Wrong
//! architecture and x32 kill; allowed calls pass, some only with certain arguments; known dangerous ones answer EPERM so
//! that a person sees a refusal; all others ENOSYS, so that the C library falls back.

use std::collections::{BTreeMap, BTreeSet};

use seccompiler::sock_filter;

use crate::additions;
use crate::error::{Failure, Stage};
use crate::plan::Instruction;
use crate::profiles::{self, Architecture, Rule};
use crate::spec::{Filter, Profile};

const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;
/// Unconditional, with a distance of 32 bits.
const JUMP: u16 = 0x05;
/// How far a conditional jump goes; its distance has 8 bits.
const REACH: usize = 255;

const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;

/// Hand the call to a listener (seccomp_unotify(2), 5.0).
const NOTIFY: u32 = 0x7fc0_0000;

/// The first number of the x32 interface; no other architecture has numbers as high.
const X32: u32 = 0x4000_0000;

/// What happens to one call.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Verdict {
    /// Return this value.
    Fixed(u32),
    /// Look at an argument.
    Test(Rule),
}

/// Compiles a filter for the step.
///
/// # Errors
/// A rule of [`Stage::Seccomp`] when an addition is unknown or would open the sandbox itself.
pub(crate) fn compile(filter: &Filter) -> Result<Vec<Instruction>, Failure> {
    for name in &filter.additions {
        additions::check(name).map_err(|error| Failure::rule(Stage::Seccomp, error.to_string()))?;
    }
    Ok(compile_for(filter, Architecture::OURS))
}

/// The same filter, with every error that it answers handed to a listener instead.
pub(crate) fn notifying(program: &[Instruction]) -> Vec<Instruction> {
    let handed = |(code, yes, no, value): &Instruction| match errno(*value) {
        Some(_) if *code == RETURN => (*code, *yes, *no, NOTIFY),
        _ => (*code, *yes, *no, *value),
    };
    program.iter().map(handed).collect()
}

/// The error that a filter's value stands for.
pub(crate) fn errno(value: u32) -> Option<i32> {
    (value & 0xffff_0000 == ERRNO).then_some((value & 0xffff) as i32)
}

/// Which argument of a call decides whether it is refused, where one does.
pub(crate) fn telling_argument(number: u32) -> Option<usize> {
    let entry = profiles::DEFAULT.iter().find(|entry| profiles::number(entry.name) == Some(number))?;
    match entry.rule {
        Rule::Always => None,
        Rule::NoTerminalInjection => Some(1),
        Rule::NoNamespaces | Rule::Sockets | Rule::LocalSockets | Rule::Personalities => Some(0),
    }
}

fn compile_for(filter: &Filter, architecture: Architecture) -> Vec<Instruction> {
    let mut verdicts = BTreeMap::new();
    for name in profiles::DANGEROUS {
        if let Some(number) = profiles::number_on(architecture, name) {
            verdicts.insert(number, Verdict::Fixed(ERRNO | libc::EPERM as u32));
        }
    }
    let strict = filter.profile == Profile::Strict;
    for entry in profiles::DEFAULT {
        if strict && profiles::NOT_STRICT.contains(&entry.name) {
            continue;
        }
        let Some(number) = profiles::number_on(architecture, entry.name) else { continue };
        let verdict = match entry.rule {
            Rule::Always => Verdict::Fixed(ALLOW),
            Rule::Sockets if strict => Verdict::Test(Rule::LocalSockets),
            rule => Verdict::Test(rule),
        };
        verdicts.insert(number, verdict);
    }
    for number in filter.additions.iter().filter_map(|name| profiles::number_on(architecture, name)) {
        verdicts.insert(number, Verdict::Fixed(ALLOW));
    }
    assemble(&verdicts, architecture)
}

/// The filter of init: what reaping and reporting needs, whatever the profile.
pub(crate) fn init() -> Vec<Instruction> {
    let mut verdicts = BTreeMap::new();
    for name in profiles::INIT {
        if let Some(number) = profiles::number(name) {
            verdicts.insert(number, Verdict::Fixed(ALLOW));
        }
    }
    assemble(&verdicts, Architecture::OURS)
}

/// Loads a filter into the calling thread; no_new_privs must be set.
pub(crate) fn load(filter: &[Instruction]) -> Result<(), nix::errno::Errno> {
    let program: Vec<sock_filter> = filter.iter().map(|(code, jt, jf, k)| sock_filter { code: *code, jt: *jt, jf: *jf, k: *k }).collect();
    seccompiler::apply_filter(&program).map_err(|error| match error {
        seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => {
            nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(libc::EINVAL))
        }
        _ => nix::errno::Errno::EINVAL,
    })
}

/// Loads a filter that hands calls to a listener, and gives that listener's descriptor; no_new_privs must be set.
pub(crate) fn load_listening(filter: &[Instruction]) -> Result<std::os::fd::OwnedFd, nix::errno::Errno> {
    crate::sys::seccomp_listen(filter)
}

/// Lays out: architecture and x32, then a binary search over ranges of equal verdict, then the verdicts.
fn assemble(verdicts: &BTreeMap<u32, Verdict>, architecture: Architecture) -> Vec<Instruction> {
    let unknown = Verdict::Fixed(ERRNO | libc::ENOSYS as u32);
    let mut ranges: Vec<(u32, &Verdict)> = vec![(0, &unknown)];
    let mut push = |start: u32, verdict| match ranges.last_mut() {
        Some(last) if last.0 == start => *last = (start, verdict),
        Some(last) if last.1 == verdict => {}
        _ => ranges.push((start, verdict)),
    };
    let mut next = 0;
    for (number, verdict) in verdicts {
        if *number > next {
            push(next, &unknown);
        }
        push(*number, verdict);
        next = number + 1;
    }
    push(next, &unknown);
    // A range that took over its predecessor's verdict at the same start leaves equal neighbours; merge them.
    ranges.dedup_by(|after, before| after.1 == before.1);

    let targets: BTreeSet<&Verdict> = ranges.iter().map(|(_, verdict)| *verdict).collect();
    let kill = Verdict::Fixed(KILL);
    let mut nodes = Vec::new();
    tree(&ranges, &mut nodes);

    // Leaves come after the tree, each once; the tree jumps to them by unconditional jump where they are too far.
    let mut program = vec![
        (LOAD, 0, 0, ARCHITECTURE),
        (JUMP_EQUAL, 1, 0, architecture.audit()),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (JUMP_GREATER_EQUAL, 0, 1, X32),
        (RETURN, 0, 0, KILL),
    ];
    let base = program.len();
    let mut leaves: BTreeMap<&Verdict, usize> = BTreeMap::new();
    let mut tail: Vec<Instruction> = Vec::new();
    for verdict in targets.into_iter().chain([&kill]) {
        leaves.insert(verdict, base + nodes.len() + tail.len());
        match verdict {
            Verdict::Fixed(value) => tail.push((RETURN, 0, 0, *value)),
            Verdict::Test(rule) => tail.extend(test(*rule)),
        }
    }
    for (at, node) in nodes.iter().enumerate() {
        let here = base + at;
        program.push(match node {
            Node::Branch { number, high } => (JUMP_GREATER_EQUAL, (high - at - 1) as u8, 0, *number),
            Node::Far { number } => (JUMP_GREATER_EQUAL, 0, 1, *number),
            Node::Jump { to } => (JUMP, 0, 0, (to - at - 1) as u32),
            Node::Leaf(verdict) => (JUMP, 0, 0, (leaves[verdict] - here - 1) as u32),
        });
    }
    program.extend(tail);
    program
}

enum Node<'a> {
    /// At least this number: go to `high`, else to the next node.
    Branch {
        number: u32,
        high: usize,
    },
    /// The same where `high` is further than a conditional jump reaches: go to the next node, which jumps there, or skip it.
    Far {
        number: u32,
    },
    Jump {
        to: usize,
    },
    Leaf(&'a Verdict),
}

/// How many nodes a tree over this many ranges has.
fn size(ranges: usize) -> usize {
    if ranges == 1 {
        return 1;
    }
    let low = size(ranges / 2);
    low + size(ranges - ranges / 2) + if low > REACH { 2 } else { 1 }
}

/// Writes the search tree in pre-order; the low side follows its branch at once.
fn tree<'a>(ranges: &[(u32, &'a Verdict)], nodes: &mut Vec<Node<'a>>) {
    if let [(_, verdict)] = ranges {
        nodes.push(Node::Leaf(verdict));
        return;
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let (number, skipped) = (high[0].0, size(low.len()));
    if skipped > REACH {
        nodes.push(Node::Far { number });
        nodes.push(Node::Jump { to: nodes.len() + 1 + skipped });
    } else {
        nodes.push(Node::Branch { number, high: nodes.len() + 1 + skipped });
    }
    tree(low, nodes);
    tree(high, nodes);
}

/// The low half of an argument, by its place in `struct seccomp_data`. The kernel takes these arguments as 32 bits.
const fn low(argument: u32) -> u32 {
    16 + argument * 8
}

fn test(rule: Rule) -> Vec<Instruction> {
    let errno = |number: i32| (RETURN, 0, 0, ERRNO | number as u32);
    let allow = (RETURN, 0, 0, ALLOW);
    match rule {
        Rule::Always => vec![allow],
        // clone(2): none of the CLONE_NEW* bits.
        Rule::NoNamespaces => {
            vec![(LOAD, 0, 0, low(0)), (AND, 0, 0, profiles::NAMESPACE_FLAGS), (JUMP_EQUAL, 0, 1, 0), allow, errno(libc::EPERM)]
        }
        Rule::Sockets => one_of(
            low(0),
            &[libc::AF_UNIX as u32],
            &[
                (JUMP_EQUAL, 1, 0, libc::AF_INET as u32),
                (JUMP_EQUAL, 0, 8, libc::AF_INET6 as u32),
                // Internet: TCP, UDP, or whichever of them the type means; ICMP goes on to the kernel's own refusal. Not
                // the young and the forgotten ones (MPTCP, UDP-Lite, SCTP), to which programs fall back from themselves.
                (LOAD, 0, 0, low(2)),
                (JUMP_EQUAL, 4, 0, 0),
                (JUMP_EQUAL, 3, 0, libc::IPPROTO_TCP as u32),
                (JUMP_EQUAL, 2, 0, libc::IPPROTO_UDP as u32),
                (JUMP_EQUAL, 1, 0, libc::IPPROTO_ICMP as u32),
                (JUMP_EQUAL, 0, 1, libc::IPPROTO_ICMPV6 as u32),
                allow,
                errno(libc::EPROTONOSUPPORT),
                // AF_NETLINK: its third argument must be NETLINK_ROUTE.
                (JUMP_EQUAL, 0, 3, libc::AF_NETLINK as u32),
                (LOAD, 0, 0, low(2)),
                (JUMP_EQUAL, 0, 1, libc::NETLINK_ROUTE as u32),
                allow,
                errno(libc::EAFNOSUPPORT),
            ],
        ),
        Rule::LocalSockets => one_of(low(0), &[libc::AF_UNIX as u32], &[errno(libc::EAFNOSUPPORT)]),
        // Typing into, or pasting into, somebody's terminal.
        Rule::NoTerminalInjection => {
            vec![(LOAD, 0, 0, low(1)), (JUMP_EQUAL, 2, 0, libc::TIOCSTI as u32), (JUMP_EQUAL, 1, 0, 0x541C), allow, errno(libc::EPERM)]
        }
        // personality(2): ask (all ones), or Linux with at most ADDR_NO_RANDOMIZE, and PER_LINUX32 for uname.
        Rule::Personalities => one_of(low(0), &[0, 0x0004_0000, 0x0008, 0xffff_ffff], &[errno(libc::EPERM)]),
    }
}

fn one_of(offset: u32, values: &[u32], otherwise: &[Instruction]) -> Vec<Instruction> {
    let mut program = vec![(LOAD, 0, 0, offset)];
    for value in values {
        program.push((JUMP_EQUAL, 0, 1, *value));
        program.push((RETURN, 0, 0, ALLOW));
    }
    program.extend_from_slice(otherwise);
    program
}

#[cfg(test)]
mod tests;
