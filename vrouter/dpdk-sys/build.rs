//! Finds libdpdk, compiles the shim and generates the bindings into `OUT_DIR`.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Oldest DPDK release the shim and the binding list were written for: Debian 12's.
const OLDEST: &str = "22.11";

/// Newest release they were checked against. A newer one only warns: DPDK keeps its API far longer.
const NEWEST: &str = "25.11";

/// Everything Rust may call or name. Growing this list is a reviewed change.
const FUNCTIONS: &[&str] = &[
    "ringway_.*",
    "rte_version",
    // environment
    "rte_eal_init",
    "rte_eal_cleanup",
    "rte_eal_get_runtime_dir",
    "rte_get_tsc_hz",
    "rte_thread_register",
    "rte_thread_unregister",
    // log
    "rte_openlog_stream",
    "fdopen",
    "fclose",
    // packet buffers
    "rte_pktmbuf_pool_create",
    "rte_pktmbuf_free_bulk",
    "rte_mempool_free",
    "rte_mempool_avail_count",
    "rte_mempool_in_use_count",
    // Ethernet devices
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_dev_close",
    "rte_eth_promiscuous_enable",
    "rte_eth_promiscuous_disable",
    "rte_eth_dev_set_mtu",
    "rte_eth_dev_rx_intr_ctl_q_get_fd",
    "rte_eth_dev_rx_intr_enable",
    "rte_eth_dev_rx_intr_disable",
    // devices made and taken away at run time
    "rte_eal_hotplug_add",
    "rte_eal_hotplug_remove",
];

/// Structures of the shim that Rust fills or reads.
const TYPES: &str = "ringway_.*";

/// Structures that Rust only ever sees a pointer to.
const OPAQUE: &[&str] = &["rte_mempool", "rte_mbuf", "FILE"];

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("\nvrouter-dpdk-sys: {why}\n");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=shim");

    let library = pkg_config::Config::new()
        .atleast_version(OLDEST)
        .env_metadata(true)
        .probe("libdpdk")
        .map_err(|source| {
            format!(
                "libdpdk {OLDEST} to {NEWEST} not found by pkg-config: install the Debian packages \
                 libdpdk-dev, dpdk, pkg-config and libclang-dev, or point PKG_CONFIG_PATH at your \
                 DPDK\n{source}"
            )
        })?;
    // A driver, which pkg-config does not name, but one with functions of its own.
    println!("cargo::rustc-link-lib=rte_net_bond");
    if release(&library.version) > release(NEWEST) {
        println!(
            "cargo::warning=DPDK {} is newer than {NEWEST}, the newest Ringway was tried with",
            library.version
        );
    }

    // The crate `pkg-config` keeps only -I and -D. DPDK also needs `-include rte_config.h`, and on x86
    // `-march=corei7`: its headers refuse to compile without SSE 4.2 intrinsics.
    let flags = cflags()?;
    compile_shim(&flags)?;
    generate(&flags)
}

/// `22.11.11` as (22, 11); an unreadable version sorts first.
fn release(version: &str) -> (u32, u32) {
    let mut parts = version.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

fn cflags() -> Result<Vec<String>, String> {
    let tool = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
    let output = Command::new(&tool)
        .args(["--cflags", "libdpdk"])
        .output()
        .map_err(|source| format!("{tool} does not run: {source}"))?;
    if !output.status.success() {
        return Err(format!(
            "{tool} --cflags libdpdk: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect())
}

fn compile_shim(flags: &[String]) -> Result<(), String> {
    let mut shim = cc::Build::new();
    // Optimised in every profile: it sits on the packet path, and nobody debugs one-line functions.
    shim.file("shim/ringway_shim.c").opt_level(3).std("gnu11");
    for flag in flags {
        shim.flag(flag);
    }
    shim.try_compile("ringway_shim").map_err(|source| format!("shim/ringway_shim.c: {source}"))
}

fn generate(flags: &[String]) -> Result<(), String> {
    let mut builder = bindgen::Builder::default()
        .header("shim/ringway_shim.h")
        .clang_args(flags)
        // What a listed function names is not pulled in: only the opaque types below exist.
        .allowlist_recursively(false)
        .allowlist_var("RINGWAY_.*")
        .allowlist_type(TYPES)
        .derive_default(true)
        .allowlist_var("stderr")
        .generate_comments(false)
        .layout_tests(false);
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    for name in OPAQUE {
        builder = builder.raw_line(format!("#[repr(C)] pub struct {name} {{ _opaque: [u8; 0] }}"));
    }
    let out = env::var("OUT_DIR").map_err(|source| format!("OUT_DIR: {source}"))?;
    let path = PathBuf::from(out).join("bindings.rs");
    builder
        .generate()
        .map_err(|source| format!("bindgen (is libclang-dev installed?): {source}"))?
        .write_to_file(&path)
        .map_err(|source| format!("{}: {source}", path.display()))
}
