//! Privileges and system calls.

use std::process::Command;

use caisson_sandbox::error::LaunchError;
use caisson_sandbox::spec::{Identity, Profile};

use crate::Test;
use crate::setting::Setting;

pub(crate) const TESTS: &[Test] = &[
    ("five capability sets are empty, nothing can be gained", capabilities),
    ("dangerous calls are refused", calls),
    ("socket families and terminals are limited", arguments),
    ("numbers of another interface kill", other_interfaces),
    ("a namespace root has six capabilities and no more", namespace_root),
    ("profiles and additions", profiles),
    ("init can't be read, traced or killed", init),
];

/// Calls by number (x86_64), and what they answer: name, number, arguments.
const CALLS: &str = r"
import ctypes, os, sys, errno
libc = ctypes.CDLL(None, use_errno=True)
def call(name, number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(number, *args)
    print(name, 'done' if result >= 0 else errno.errorcode[ctypes.get_errno()])
";

fn capabilities(setting: &Setting) {
    let said = setting.says(&setting.sh("grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status | tr -d '\\t'"));
    let zero = "0000000000000000";
    let expected = format!("CapInh:{zero}\nCapPrm:{zero}\nCapEff:{zero}\nCapBnd:{zero}\nCapAmb:{zero}\nNoNewPrivs:1\nSeccomp:2");
    assert_eq!(said, expected);
    let setuid = setting.run(&setting.sh("su -c id || mount -t tmpfs x /tmp"));
    assert!(!setuid.outcome.success());
}

fn calls(setting: &Setting) {
    let calls = "
call('unshare', 272, 0x10000000)
call('setns', 308, 0, 0)
call('mount', 165, 0, 0, 0, 0, 0)
call('fsopen', 430, b'tmpfs', 0)
call('open_tree', 428, -100, b'/', 1)
call('pivot_root', 155, b'/', b'/')
call('chroot', 161, b'/')
call('bpf', 321, 0, 0, 0)
call('perf', 298, 0, 0, -1, -1, 0)
call('keyctl', 250, 0, -3, 0)
call('add_key', 248, b'user', b'x', b'y', 1, -3)
call('io_uring', 425, 1, ctypes.create_string_buffer(120))
call('userfaultfd', 323, 1)
call('ptrace', 101, 0, 0, 0, 0)
call('process_vm_readv', 310, os.getpid(), 0, 0, 0, 0, 0)
call('handle', 303, -100, b'/', 0, 0, 0)
call('kexec', 246, 0, 0, 0, 0)
call('module', 313, 0, b'', 0)
call('reboot', 169, 0, 0, 0, 0)
call('clock_settime', 227, 0, 0)
call('clone-user', 56, 0x10000000 | 17, 0, 0, 0, 0)
call('clone-net', 56, 0x40000000 | 17, 0, 0, 0, 0)
call('clone3', 435, 0, 0)
call('unknown', 1000)
";
    let said = setting.says(&setting.python(&format!("{CALLS}{calls}")));
    for line in said.lines() {
        let expected = if line.starts_with("clone3") || line.starts_with("unknown") { "ENOSYS" } else { "EPERM" };
        assert!(line.ends_with(expected), "{line}");
    }
    assert_eq!(said.lines().count(), 24);
    // Control: outside, some of the same calls do what they say or find another fault.
    let outside = "call('unshare', 272, 0x10000000)\ncall('clone3', 435, 0, 0)\ncall('keyctl', 250, 0, -3, 0)";
    let output = Command::new("/usr/bin/python3").args(["-c", &format!("{CALLS}{outside}")]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("unshare done") && said.contains("keyctl done") && said.contains("clone3 EINVAL"), "{said}");
}

fn arguments(setting: &Setting) {
    let script = "
import socket, os, pty, fcntl, errno
def family(name, *args):
    try: socket.socket(*args); print(name, 'done')
    except OSError as e: print(name, errno.errorcode[e.errno])
family('unix', socket.AF_UNIX, socket.SOCK_STREAM)
family('inet', socket.AF_INET, socket.SOCK_DGRAM)
family('inet6', socket.AF_INET6, socket.SOCK_STREAM)
family('route', socket.AF_NETLINK, socket.SOCK_RAW, 0)
family('uevent', socket.AF_NETLINK, socket.SOCK_RAW, 15)
family('packet', socket.AF_PACKET, socket.SOCK_RAW)
family('vsock', 40, socket.SOCK_STREAM)
family('alg', 38, socket.SOCK_SEQPACKET)
family('raw', socket.AF_INET, socket.SOCK_RAW, 1)
m, s = pty.openpty()
for name, number in (('sti', 0x5412), ('linux', 0x541C)):
    try: fcntl.ioctl(s, number, b'x'); print(name, 'done')
    except OSError as e: print(name, errno.errorcode[e.errno])
";
    let said = setting.says(&setting.python(script));
    let expected = "unix done\ninet done\ninet6 done\nroute done\nuevent EAFNOSUPPORT\npacket EAFNOSUPPORT\nvsock EAFNOSUPPORT\n\
                    alg EAFNOSUPPORT\nraw EPERM\nsti EPERM\nlinux EPERM";
    assert_eq!(said, expected);
}

fn other_interfaces(setting: &Setting) {
    let ran = setting.run(&setting.python(&format!("{CALLS}call('x32', 0x40000000 + 39)")));
    assert_eq!(ran.outcome.code(), 128 + 31, "{}", ran.out);
    // getpid through the 32-bit entry: int 0x80 from a page of machine code.
    let code = "
import ctypes, mmap
m = mmap.mmap(-1, 4096, prot=7)
m.write(b'\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3')
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))())
";
    let ran = setting.run(&setting.python(code));
    assert!(ran.outcome.code() > 128, "{:?} {}", ran.outcome.status, ran.out);
}

fn namespace_root(setting: &Setting) {
    let mut spec = setting.sh("id -u; grep CapEff /proc/self/status; touch /tmp/x; chown 33:33 /tmp/x 2>/dev/null && echo chowned; \
         mount -t tmpfs x /tmp 2>/dev/null || echo no mount; cat /proc/1/environ 2>/dev/null || echo hidden; \
         kill -9 1; echo x > /proc/sys/kernel/core_pattern || echo held");
    spec.identity = Identity::NamespaceRoot;
    let said = setting.says(&spec);
    let chowned = if setting.launcher.mode() == caisson_sandbox::host::Mode::Single { "" } else { "chowned\n" };
    assert_eq!(said, format!("0\nCapEff:\t00000000000000db\n{chowned}no mount\nhidden\nheld"));
}

fn profiles(setting: &Setting) {
    let mut spec = setting.python("import socket; socket.socket(socket.AF_INET)");
    assert!(setting.run(&spec).outcome.success());
    spec.filter.profile = Profile::Strict;
    assert!(!setting.run(&spec).outcome.success());
    let mut spec = setting.python(&format!("{CALLS}call('ptrace', 101, 0, 0, 0, 0)"));
    spec.filter.additions.insert("ptrace".to_owned());
    assert_eq!(setting.says(&spec), "ptrace done");
    for name in ["clone3", "mount", "no_such_call"] {
        spec.filter.additions = [name.to_owned()].into();
        let error = setting.start(&spec).map(drop).unwrap_err();
        assert!(matches!(&error, LaunchError::Failed(_)) && error.to_string().contains(name), "{error}");
    }
}

fn init(setting: &Setting) {
    let script = "
import os, signal
for path in ('/proc/1/environ', '/proc/1/mem', '/proc/1/maps', '/proc/1/exe', '/proc/1/root', '/proc/1/fd'):
    try: os.listdir(path) if path.endswith('fd') else os.stat(path) and open(path, 'rb').read(1); print(path)
    except OSError: pass
for s in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):
    try: os.kill(1, s)
    except OSError: pass
print('alive')
";
    assert_eq!(setting.says(&setting.python(script)), "alive");
}
