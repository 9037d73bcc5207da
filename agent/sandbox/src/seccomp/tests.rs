//! The compiled tree against an oracle: the policy built with `seccompiler`'s own compiler, both programs evaluated here,
//! over every number and the arguments at which rules change their mind.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};

use super::*;
use crate::evaluate::Call;

const OUR_ARCHITECTURE: u32 = Architecture::OURS.audit();

fn evaluate(program: &[Instruction], call: Call) -> u32 {
    crate::evaluate::evaluate(program, &call)
}

fn calls(number: u32) -> impl Iterator<Item = Call> {
    let values = [
        0,
        1,
        2,
        3,
        8,
        10,
        15,
        16,
        17,
        40,
        0x10,
        0x5412,
        0x541C,
        0x541B,
        0x0004_0000,
        0x1000_0000,
        0x4000_0000,
        0x7E02_0000,
        0xffff_ffff,
        0x1_0000_0002,
    ];
    values.into_iter().flat_map(move |first| {
        values.into_iter().map(move |other| Call { number, architecture: OUR_ARCHITECTURE, arguments: [first, other, other, 0, 0, 0] })
    })
}

fn equal(argument: u8, value: u64) -> SeccompCondition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value).unwrap()
}

fn rules(rule: Rule) -> Vec<SeccompRule> {
    let all = |lists: Vec<Vec<SeccompCondition>>| lists.into_iter().map(|list| SeccompRule::new(list).unwrap()).collect();
    match rule {
        Rule::Always => Vec::new(),
        Rule::NoNamespaces => {
            let mask = SeccompCmpOp::MaskedEq(u64::from(profiles::NAMESPACE_FLAGS));
            all(vec![vec![SeccompCondition::new(0, SeccompCmpArgLen::Dword, mask, 0).unwrap()]])
        }
        Rule::Sockets => {
            let internet =
                [2, 10].into_iter().flat_map(|family| [0, 1, 6, 17, 58].map(|protocol| vec![equal(0, family), equal(2, protocol)]));
            all([vec![equal(0, 1)], vec![equal(0, 16), equal(2, 0)]].into_iter().chain(internet).collect())
        }
        Rule::LocalSockets => all(vec![vec![equal(0, 1)]]),
        Rule::NoTerminalInjection => {
            let differs = |value| SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value).unwrap();
            all(vec![vec![differs(0x5412), differs(0x541C)]])
        }
        Rule::Personalities => all([0, 0x0004_0000, 8, 0xffff_ffff].map(|value| vec![equal(0, value)]).into()),
    }
}

fn oracle() -> Vec<Instruction> {
    let list: BTreeMap<i64, Vec<SeccompRule>> =
        profiles::DEFAULT.iter().filter_map(|entry| Some((i64::from(profiles::number(entry.name)?), rules(entry.rule)))).collect();
    let target = if cfg!(target_arch = "x86_64") { TargetArch::x86_64 } else { TargetArch::aarch64 };
    let filter = SeccompFilter::new(list, SeccompAction::Errno(1), SeccompAction::Allow, target).unwrap();
    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
    program.iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect()
}

#[test]
fn the_tree_allows_exactly_what_the_oracle_allows() {
    let (ours, oracle) = (compile(&Filter::default()).unwrap(), oracle());
    for number in 0..600 {
        for call in calls(number) {
            let (verdict, expected) = (evaluate(&ours, call), evaluate(&oracle, call));
            assert_eq!(verdict == ALLOW, expected == ALLOW, "call {number} {:x?}: {verdict:#x}", call.arguments);
        }
    }
}

#[test]
fn internet_sockets_speak_tcp_and_udp_alone() {
    let program = compile(&Filter::default()).unwrap();
    let number = profiles::number("socket").unwrap();
    let verdict =
        |family, protocol| evaluate(&program, Call { number, architecture: OUR_ARCHITECTURE, arguments: [family, 1, protocol, 0, 0, 0] });
    for family in [2, 10] {
        for protocol in [0, 1, 6, 17, 58] {
            assert_eq!(verdict(family, protocol), ALLOW, "{family} {protocol}");
        }
        // SCTP, DCCP, UDP-Lite, L2TP, MPTCP, and one hidden behind bits that the kernel does not look at.
        for protocol in [132, 33, 136, 115, 262, 0x1_0000_0106] {
            assert_eq!(verdict(family, protocol), ERRNO | libc::EPROTONOSUPPORT as u32, "{family} {protocol}");
        }
    }
}

#[test]
fn the_rest_is_refused_as_promised() {
    let program = compile(&Filter::default()).unwrap();
    assert!(program.len() < 400, "{} instructions", program.len());
    let verdict = |number, architecture| evaluate(&program, Call { number, architecture, arguments: [0; 6] });
    for name in profiles::DANGEROUS {
        if let Some(number) = profiles::number(name) {
            assert_eq!(verdict(number, OUR_ARCHITECTURE), ERRNO | 1, "{name}");
        }
    }
    for number in [profiles::number("clone3").unwrap(), 999, 0x3fff_ffff] {
        assert_eq!(verdict(number, OUR_ARCHITECTURE), ERRNO | libc::ENOSYS as u32, "{number}");
    }
    for number in [0, 39, 0x4000_0000, 0x4000_0027, u32::MAX] {
        assert_eq!(verdict(number, 0x4000_0003), KILL, "i386 {number}");
        assert!(number < X32 || verdict(number, OUR_ARCHITECTURE) == KILL, "x32 {number}");
    }
}

#[test]
fn profiles_are_kept_small_and_reasoned() {
    assert!(profiles::DEFAULT.len() <= 260, "{}", profiles::DEFAULT.len());
    // Those with a rule are never opened whole.
    let never = |entry: &profiles::Entry| entry.rule == Rule::Always && profiles::NEVER.iter().any(|(name, _)| *name == entry.name);
    for (at, entry) in profiles::DEFAULT.iter().enumerate() {
        assert!(entry.reason.len() > 10, "{}", entry.name);
        assert!(!profiles::DANGEROUS.contains(&entry.name) && !never(entry), "{}", entry.name);
        assert!(profiles::DEFAULT[..at].iter().all(|before| before.name != entry.name), "{} twice", entry.name);
    }
    for name in profiles::NOT_STRICT {
        assert!(profiles::number(name).is_some(), "{name}");
    }
}

#[test]
fn the_other_machine_gets_the_same_verdicts_by_its_own_numbers() {
    let machine = Architecture::Aarch64;
    for filter in [Filter::default(), Filter { profile: Profile::Strict, ..Filter::default() }] {
        let (ours, theirs) = (compile_for(&filter, Architecture::OURS), compile_for(&filter, machine));
        let names = profiles::DEFAULT.iter().map(|entry| entry.name).chain(profiles::DANGEROUS.iter().copied()).chain(["clone3"]);
        for name in names {
            let (Some(own), Some(other)) = (profiles::number(name), profiles::number_on(machine, name)) else { continue };
            for call in calls(own) {
                let there = Call { number: other, architecture: machine.audit(), ..call };
                assert_eq!(evaluate(&ours, call), evaluate(&theirs, there), "{name} {:x?}", call.arguments);
            }
        }
        for number in 0..700 {
            let call = Call { number, architecture: OUR_ARCHITECTURE, arguments: [0; 6] };
            if OUR_ARCHITECTURE != machine.audit() {
                assert_eq!(evaluate(&theirs, call), KILL, "a call of another machine: {number}");
            }
            let known = profiles::DEFAULT.iter().any(|entry| profiles::number_on(machine, entry.name) == Some(number));
            let there = Call { architecture: machine.audit(), ..call };
            assert!(known || evaluate(&theirs, there) != ALLOW, "{number} is on no list");
        }
    }
}

#[test]
fn a_listener_gets_exactly_what_would_have_been_refused() {
    let plain = compile(&Filter::default()).unwrap();
    let handing = notifying(&plain);
    for number in 0..600 {
        for call in calls(number) {
            let (verdict, handed) = (evaluate(&plain, call), evaluate(&handing, call));
            assert_eq!(handed, if errno(verdict).is_some() { NOTIFY } else { verdict }, "{number}");
        }
    }
}

#[test]
fn random_policies_compile_to_what_they_say() {
    use proptest::prelude::*;
    let verdict = prop_oneof![Just(Verdict::Fixed(ALLOW)), Just(Verdict::Fixed(ERRNO | 1)), Just(Verdict::Fixed(ERRNO | 38))];
    proptest!(|(policy in proptest::collection::btree_map(0_u32..512, verdict, 0..400))| {
        let program = assemble(&policy, Architecture::OURS);
        for number in 0..520 {
            let call = Call { number, architecture: OUR_ARCHITECTURE, arguments: [0; 6] };
            let expected = match policy.get(&number) { Some(Verdict::Fixed(value)) => *value, _ => ERRNO | 38 };
            prop_assert_eq!(evaluate(&program, call), expected, "{}", number);
        }
    });
}
