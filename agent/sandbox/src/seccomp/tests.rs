//! The compiled tree against an oracle: the policy built with `seccompiler`'s own compiler, both programs evaluated here,
//! over every number and the arguments at which rules change their mind.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};

use super::*;

/// `struct seccomp_data`.
#[derive(Clone, Copy)]
struct Call {
    number: u32,
    architecture: u32,
    arguments: [u64; 6],
}

fn evaluate(program: &[Instruction], call: Call) -> u32 {
    let mut bytes = Vec::new();
    bytes.extend(call.number.to_le_bytes());
    bytes.extend(call.architecture.to_le_bytes());
    bytes.extend([0; 8]);
    call.arguments.iter().for_each(|argument| bytes.extend(argument.to_le_bytes()));
    let (mut at, mut register) = (0, 0_u32);
    loop {
        let (code, yes, no, operand) = program[at];
        at += 1;
        let jump = |taken: bool| usize::from(if taken { yes } else { no });
        match code {
            LOAD => {
                let from = operand as usize;
                register = u32::from_le_bytes(bytes[from..from + 4].try_into().unwrap());
            }
            JUMP_EQUAL => at += jump(register == operand),
            JUMP_GREATER_EQUAL => at += jump(register >= operand),
            0x25 => at += jump(register > operand),
            0x05 => at += operand as usize,
            AND => register &= operand,
            RETURN => return operand,
            other => panic!("instruction {other:#x}"),
        }
    }
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
        Rule::Sockets => all(vec![vec![equal(0, 1)], vec![equal(0, 2)], vec![equal(0, 10)], vec![equal(0, 16), equal(2, 0)]]),
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
    assert!(profiles::DEFAULT.len() <= 230, "{}", profiles::DEFAULT.len());
    for (at, entry) in profiles::DEFAULT.iter().enumerate() {
        assert!(entry.reason.len() > 10, "{}", entry.name);
        assert!(!profiles::DANGEROUS.contains(&entry.name) && !profiles::NEVER.contains(&entry.name), "{}", entry.name);
        assert!(profiles::DEFAULT[..at].iter().all(|before| before.name != entry.name), "{} twice", entry.name);
    }
    for name in profiles::NOT_STRICT {
        assert!(profiles::number(name).is_some(), "{name}");
    }
}

#[test]
fn random_policies_compile_to_what_they_say() {
    use proptest::prelude::*;
    let verdict = prop_oneof![Just(Verdict::Fixed(ALLOW)), Just(Verdict::Fixed(ERRNO | 1)), Just(Verdict::Fixed(ERRNO | 38))];
    proptest!(|(policy in proptest::collection::btree_map(0_u32..512, verdict, 0..400))| {
        let program = assemble(&policy);
        for number in 0..520 {
            let call = Call { number, architecture: OUR_ARCHITECTURE, arguments: [0; 6] };
            let expected = match policy.get(&number) { Some(Verdict::Fixed(value)) => *value, _ => ERRNO | 38 };
            prop_assert_eq!(evaluate(&program, call), expected, "{}", number);
        }
    });
}
