//! seccomp: which system calls the process can use.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

/// The calls that fail: what a proxy never does, and what an attacker would.
const REFUSED: &[libc::c_long] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    // The kernel and its modules.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_quotactl,
    libc::SYS_personality,
    libc::SYS_fanotify_init,
    libc::SYS_vhangup,
    // Keys that the kernel keeps.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Mounts, roots and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fsconfig,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    // The clock and the names of the machine.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
];

/// The only kinds of sockets.
const FAMILIES: [libc::c_int; 4] = [
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
];

/// Flags of `clone` for namespaces.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// The bit of the second numbers that calls of x86-64 have (x32).
const X32: i64 = 0x4000_0000;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Limits the system calls of this thread and of those that it starts. Other calls fail with EPERM.
///
/// # Errors
/// Why not.
pub(super) fn limit() -> Result<(), String> {
    let said = |error: &dyn std::fmt::Display| format!("seccomp: {error}");
    let refused = refused().map_err(|error| said(&error))?;
    // Its flags are behind a pointer. The C library takes `clone` instead.
    let hidden = Rules::from([(libc::SYS_clone3, Vec::new())]);
    for (rules, error) in [(refused, libc::EPERM), (hidden, libc::ENOSYS)] {
        let program = program(rules, error).map_err(|error| said(&error))?;
        apply_filter(&program).map_err(|error| said(&error))?;
    }
    Ok(())
}

fn refused() -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let equals = |argument, operator, value: libc::c_int| {
        let value = u64::from(value.unsigned_abs());
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
    };
    let others = FAMILIES.map(|family| equals(0, SeccompCmpOp::Ne, family));
    let others = others.into_iter().collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(others)?]);
    let flags = NAMESPACES.map(|flag| {
        let mask = u64::from(flag.unsigned_abs());
        let is_set = equals(0, SeccompCmpOp::MaskedEq(mask), flag)?;
        SeccompRule::new(vec![is_set])
    });
    let flags = flags.into_iter().collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_clone, flags);
    Ok(rules)
}

fn program(mut rules: Rules, error: libc::c_int) -> Result<BpfProgram, seccompiler::BackendError> {
    let machine = TargetArch::try_from(std::env::consts::ARCH)?;
    if machine == TargetArch::x86_64 {
        let twice: Rules = rules
            .iter()
            .map(|(call, rules)| (call | X32, rules.clone()))
            .collect();
        rules.extend(twice);
    }
    let fail = SeccompAction::Errno(error.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, fail, machine)?.try_into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::ErrorKind;
    use std::process::Command;

    use socket2::{Domain, Socket, Type};

    use super::*;

    /// The limits are those of a thread, and end with it.
    #[test]
    fn what_a_proxy_never_does_fails_and_the_rest_works() {
        let limited = std::thread::spawn(|| {
            limit().unwrap();
            let open = |domain| Socket::new(domain, Type::DGRAM, None).map(drop);
            for domain in [Domain::IPV4, Domain::IPV6, Domain::UNIX] {
                let opened = open(domain);
                // A machine may have no IPv6.
                let denied = opened.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
                assert!(!denied, "{domain:?}");
            }
            let raw = open(Domain::PACKET).unwrap_err();
            assert_eq!(raw.kind(), ErrorKind::PermissionDenied);
            let host = rustix::system::sethostname(b"another").unwrap_err();
            assert_eq!(host, rustix::io::Errno::PERM);
            let inner = std::thread::spawn(|| open_vsock().unwrap_err().kind());
            assert_eq!(inner.join().unwrap(), ErrorKind::PermissionDenied);
            Command::new("true").status().unwrap().success()
        });
        assert!(limited.join().unwrap());
    }

    fn open_vsock() -> std::io::Result<()> {
        Socket::new(Domain::VSOCK, Type::STREAM, None).map(drop)
    }
}
