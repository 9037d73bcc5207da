//! The same calls by other doors: the 32-bit entry of x86 and the x32 numbers, which a filter for the ordinary numbers does
//! not know.

use caisson_sandbox::raw::Argument::Word;
use caisson_sandbox::raw::{Call, Entry};

use super::kernel::NONE;
use crate::attack::{Act, Attack, Control};
use crate::needs::Need;

macro_rules! compat {
    ($id:literal, $tries:literal, $control:ident, $number:literal $(, $word:expr)*) => {
        Attack::new(
            $id,
            $tries,
            Act::Calls(&[Call { entry: Entry::Compat, number: $number, arguments: &[$(Word($word)),*] }]),
            Control::$control,
        )
        .needing(&[Need::X86])
    };
}
macro_rules! x32 {
    ($id:literal, $tries:literal, $number:literal $(, $word:expr)*) => {
        Attack::new(
            $id,
            $tries,
            Act::Calls(&[Call { entry: Entry::Native, number: 0x4000_0000 + $number, arguments: &[$(Word($word)),*] }]),
            Control::Outside,
        )
        .needing(&[Need::X86])
    };
}

pub(super) const ATTACKS: &[Attack] = &[
    compat!("kernel.int80-getpid", "make any call by the 32-bit entry", Outside, 20),
    compat!("kernel.int80-mount", "mount by its 32-bit number", Weakened, 21),
    compat!("kernel.int80-ptrace", "trace by its 32-bit number", Outside, 26),
    compat!("kernel.int80-iopl", "reach the processor's ports by the 32-bit number", Outside, 110),
    compat!("kernel.int80-modify-ldt", "change its segment table by the 32-bit number", Outside, 123),
    compat!("kernel.int80-init-module", "load a module by its 32-bit number", Root, 128),
    compat!("kernel.int80-keyctl", "reach keyrings by the 32-bit number", Outside, 288, 0, 0xffff_fffd, 0),
    compat!("kernel.int80-kexec", "load a kernel by its 32-bit number", Root, 283, 0, 1000),
    compat!("kernel.int80-unshare", "make a user namespace by its 32-bit number", Outside, 310, 0x1000_0000)
        .needing(&[Need::X86, Need::Setting("/proc/sys/kernel/unprivileged_userns_clone", &["1"])]),
    compat!("kernel.int80-perf-event", "watch counters by the 32-bit number", Root, 336),
    compat!("kernel.int80-setns", "join a namespace by its 32-bit number", Outside, 346, NONE),
    compat!("kernel.int80-process-vm-read", "read memory by its 32-bit number", Outside, 347),
    compat!("kernel.int80-bpf", "load a program by its 32-bit number", Root, 357),
    compat!("kernel.int80-socket", "open a uevent socket by its 32-bit number", Outside, 359, 16, 3, 15),
    compat!("kernel.int80-userfaultfd", "handle faults by its 32-bit number", Outside, 374, 1),
    compat!("kernel.int80-io-uring", "make a queue by its 32-bit number", Outside, 425)
        .needing(&[Need::X86, Need::Setting("/proc/sys/kernel/io_uring_disabled", &["0"])]),
    x32!("kernel.x32-getpid", "make any call by its x32 number", 39),
    x32!("kernel.x32-mount", "mount by its x32 number", 165),
    x32!("kernel.x32-unshare", "make a user namespace by its x32 number", 272, 0x1000_0000),
    x32!("kernel.x32-ptrace", "trace by its x32 number", 521),
    x32!("kernel.x32-io-uring", "make a queue by its x32 number", 425),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_compat_call_goes_by_the_other_door() {
        let compat = ATTACKS.iter().filter(|attack| attack.id.contains("int80"));
        for attack in compat {
            assert!(matches!(attack.act, Act::Calls([Call { entry: Entry::Compat, .. }])), "{}", attack.id);
        }
    }
}
