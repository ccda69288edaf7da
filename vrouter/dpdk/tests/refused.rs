//! EAL says no, in a process of its own: a process has one attempt.

use vrouter_dpdk::{Eal, EalConfig, EalError, Errno, LogLevel, Memory, allowed_cpus};

#[test]
fn eals_own_words_are_in_the_error() {
    let config = EalConfig {
        file_prefix: "ringway-test-refused".to_owned(),
        memory: Memory::Ordinary { mib: 64 },
        log_level: LogLevel::Warning,
        extra: vec!["-d".to_owned(), "/nonexistent/driver.so".to_owned()],
    };
    let cpus = allowed_cpus().unwrap();
    let error = Eal::init(&config).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, EalError::Refused { errno: Errno::EINVAL, .. }), "{text}");
    assert!(text.contains("/nonexistent/driver.so: cannot open shared object file"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert_eq!(
        allowed_cpus().unwrap(),
        cpus,
        "a failed start leaves the caller's affinity alone, too"
    );
    assert!(matches!(Eal::init(&config), Err(EalError::AlreadyInitialised)));
}
