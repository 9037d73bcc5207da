//! Runs a filter in user space, as the kernel would: to know what it answers, and to test what it is made of.

use crate::plan::Instruction;

/// `struct seccomp_data`, without the place of the call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub number: u32,
    pub architecture: u32,
    pub arguments: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        let at = offset as usize / 4;
        match at {
            0 => self.number,
            1 => self.architecture,
            4..16 => {
                let argument = self.arguments[(at - 4) / 2];
                if at.is_multiple_of(2) { argument as u32 } else { (argument >> 32) as u32 }
            }
            // The address of the call, which no filter of ours looks at.
            _ => 0,
        }
    }
}

/// The value that a filter returns; kills on an instruction that none of ours has.
pub(crate) fn evaluate(program: &[Instruction], call: &Call) -> u32 {
    const KILL: u32 = 0x8000_0000;
    let (mut at, mut register) = (0, 0_u32);
    while let Some((code, yes, no, operand)) = program.get(at).copied() {
        at += 1;
        let jump = |taken: bool| usize::from(if taken { yes } else { no });
        match code {
            0x20 => register = call.word(operand),
            0x15 => at += jump(register == operand),
            0x35 => at += jump(register >= operand),
            0x25 => at += jump(register > operand),
            0x05 => at += operand as usize,
            0x54 => register &= operand,
            0x06 => return operand,
            _ => return KILL,
        }
    }
    KILL
}
