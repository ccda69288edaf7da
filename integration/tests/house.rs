//! The rules of the house, read from the tree itself: who may depend on whom, what a crate root must say, and
//! what may not be committed. Each rule is one test; its message says where it is broken and what to do.
//!
//! Growing one of the allow-lists below is a decision for review, not a way to make a test pass.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers included"
)]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Display;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use cargo_metadata::{DependencyKind, MetadataCommand, Package};

/// What one crate of the workspace may depend on.
struct Allowed {
    package: &'static str,
    /// Crates of this workspace, for whatever purpose.
    ours: &'static [&'static str],
    /// Crates from outside, at run time; `None`: any. Tests and build scripts are free.
    others: Option<&'static [&'static str]>,
}

/// Arrows point to purity. Components meet in `ringway-config`, `vrouter-api` and `nri-plugin-api`, never in each other;
/// `integration` runs the daemons as binaries.
const DEPENDENCIES: &[Allowed] = &[
    // Schemas are for Kubernetes, behind a feature that only the tuner's crates switch on.
    Allowed {
        package: "ringway-config",
        ours: &[],
        others: Some(&["schemars", "serde", "thiserror", "toml"]),
    },
    Allowed {
        package: "nri-plugin",
        ours: &[
            "nri-plugin-api",
            "nri-plugin-core",
            "nri-plugin-proto",
            "ringway-config",
            "vrouter-api",
        ],
        others: None,
    },
    Allowed { package: "nri-plugin-api", ours: &[], others: None },
    Allowed { package: "nri-plugin-core", ours: &[], others: Some(&["thiserror"]) },
    Allowed { package: "nri-plugin-proto", ours: &[], others: None },
    Allowed {
        package: "runtime-shim",
        ours: &["nri-plugin-api", "ringway-config", "runtime-shim-core"],
        others: None,
    },
    // A configuration is a JSON tree: what it decides on is serde_json's value, and nothing of serde.
    Allowed { package: "runtime-shim-core", ours: &[], others: Some(&["serde_json", "thiserror"]) },
    Allowed { package: "vrouter-net", ours: &[], others: Some(&[]) },
    Allowed { package: "vrouter-core", ours: &["vrouter-net"], others: Some(&[]) },
    Allowed { package: "vrouter-dpdk-sys", ours: &[], others: Some(&[]) },
    Allowed {
        package: "vrouter-dpdk",
        ours: &["vrouter-dpdk-sys", "vrouter-net"],
        others: Some(&["nix", "thiserror"]),
    },
    Allowed { package: "vrouter-vhost", ours: &["vrouter-net"], others: None },
    Allowed { package: "vrouter-api", ours: &[], others: None },
    Allowed { package: "vrouter-kernel", ours: &[], others: None },
    Allowed {
        package: "vrouter-vrouterd",
        ours: &[
            "ringway-config",
            "vrouter-api",
            "vrouter-core",
            "vrouter-dpdk",
            "vrouter-kernel",
            "vrouter-net",
            "vrouter-vhost",
        ],
        others: None,
    },
    // Devices of CDI are the node API's.
    Allowed { package: "vrouter-cli", ours: &["nri-plugin-api", "vrouter-api"], others: None },
    Allowed {
        package: "integration",
        ours: &["nri-plugin-api", "ringway-config", "vrouter-api"],
        others: None,
    },
    // A profile is handed on as a whole (ADR 13); everything else reaches the core as text.
    Allowed {
        package: "node-tuner-core",
        ours: &["ringway-config"],
        others: Some(&["serde", "thiserror", "toml_edit"]),
    },
    Allowed {
        package: "node-tuner",
        ours: &[
            "node-tuner-cluster",
            "node-tuner-core",
            "node-tuner-kubernetes",
            "nri-plugin-api",
            "ringway-config",
            "vrouter-api",
        ],
        others: None,
    },
    // Placement promises what the node's allocator will grant, so both read annotations with the same parser (ADR 14).
    Allowed {
        package: "node-tuner-cluster",
        ours: &["node-tuner-core", "nri-plugin-core", "ringway-config"],
        others: Some(&["schemars", "serde", "thiserror"]),
    },
    Allowed {
        package: "node-tuner-kubernetes",
        ours: &["node-tuner-cluster", "nri-plugin-core", "ringway-config"],
        others: None,
    },
    Allowed {
        package: "node-tuner-controller",
        ours: &["node-tuner-cluster", "node-tuner-kubernetes", "ringway-config"],
        others: None,
    },
    Allowed {
        package: "ringway-agents",
        ours: &["node-tuner-cluster", "node-tuner-kubernetes"],
        others: None,
    },
    // A pod's application, not a part of the vRouter: it shares the owners of DPDK and nothing else.
    Allowed {
        package: "ringway-pktgen",
        ours: &["vrouter-dpdk"],
        others: Some(&["clap", "nix", "serde", "serde_json", "thiserror"]),
    },
    Allowed { package: "ringway-bench", ours: &["integration", "vrouter-api"], others: None },
];

/// Crates whose sources may contain `unsafe`.
const UNSAFE: &[&str] = &["vrouter-dpdk-sys", "vrouter-dpdk", "vrouter-vhost"];

/// Crates without the standard library.
const NO_STD: &[&str] = &["vrouter-net", "vrouter-core"];

/// Crates that decide and do not act: time, files and peers reach them as arguments.
const PURE: &[&str] = &[
    "vrouter-net",
    "vrouter-core",
    "nri-plugin-core",
    "runtime-shim-core",
    "node-tuner-core",
    "node-tuner-cluster",
];

/// Modules of `std` that act. Addresses are in `core::net`, too.
const ACTING_MODULES: &[&str] = &["env", "fs", "net", "process"];

/// Clocks.
const CLOCKS: &[&str] = &["Instant::now", "SystemTime"];

/// Lines of one source file, its tests not counted.
const FILE_MAX: usize = 700;

// === rules ===

#[test]
fn every_crate_is_on_the_dependency_list() {
    let listed: BTreeSet<_> = DEPENDENCIES.iter().map(|allowed| allowed.package).collect();
    let there: BTreeSet<_> = house().packages.iter().map(|package| package.name.as_str()).collect();
    let new = there.difference(&listed).map(|name| format!("{name} is missing in DEPENDENCIES"));
    let gone = listed.difference(&there).map(|name| format!("{name} is listed but does not exist"));
    report(new.chain(gone), "say in integration/tests/house.rs what the crate may depend on");
}

#[test]
fn crates_depend_only_on_the_crates_of_ours_they_may() {
    let broken = dependencies().filter(|(allowed, dependency)| {
        dependency.ours && !allowed.ours.contains(&dependency.name.as_str())
    });
    report(
        broken.map(|(allowed, dependency)| {
            format!("{} depends on {}", allowed.package, dependency.name)
        }),
        "arrows point to purity and components meet only in ringway-config and the API crates: move the code to \
         the side that may know both, or convert in a binary's convert.rs",
    );
}

#[test]
fn pure_crates_have_only_the_outside_dependencies_they_may() {
    let broken = dependencies().filter(|(allowed, dependency)| {
        let listed = |list: &[&str]| list.contains(&dependency.name.as_str());
        !dependency.ours
            && dependency.kind == DependencyKind::Normal
            && allowed.others.is_some_and(|list| !listed(list))
    });
    report(
        broken.map(|(allowed, dependency)| {
            format!("{} depends on {}", allowed.package, dependency.name)
        }),
        "a pure crate gets what it needs as an argument; wire and file formats belong to ringway-config and \
         to the binaries",
    );
}

#[test]
fn only_the_dpdk_crate_sees_the_raw_bindings() {
    let users = dependencies().filter(|(allowed, dependency)| {
        dependency.name == "vrouter-dpdk-sys" && allowed.package != "vrouter-dpdk"
    });
    report(
        users.map(|(allowed, _)| format!("{} depends on vrouter-dpdk-sys", allowed.package)),
        "add a safe owner to vrouter-dpdk and use that",
    );
}

#[test]
fn unsafe_code_is_forbidden_outside_its_three_crates() {
    let roots = crate_roots(|package| !UNSAFE.contains(&package));
    report(
        roots
            .filter(|file| !has_line(&file.text, "#![forbid(unsafe_code)]"))
            .map(|file| &file.path),
        "write #![forbid(unsafe_code)] into the crate root; what needs unsafe goes to vrouter-dpdk or \
         vrouter-vhost",
    );
}

#[test]
fn packet_crates_do_without_the_standard_library() {
    let roots = crate_roots(|package| NO_STD.contains(&package));
    report(
        roots.filter(|file| !has_line(&file.text, "#![no_std]")).map(|file| &file.path),
        "write #![no_std] into the crate root; `alloc` is there for vrouter-core",
    );
}

#[test]
fn pure_crates_do_not_act() {
    let mut broken = Vec::new();
    for file in sources().filter(|file| PURE.contains(&file.package.as_str())) {
        if test_only_files().contains(&file.path) {
            continue;
        }
        let code = without_comments(&without_tests(&file.text));
        let modules = std_modules(&code);
        let modules = modules.iter().filter(|name| ACTING_MODULES.contains(&name.as_str()));
        broken.extend(modules.map(|name| format!("{} uses std::{name}", file.path)));
        let clocks = CLOCKS.iter().filter(|clock| code.contains(*clock));
        broken.extend(clocks.map(|clock| format!("{} uses {clock}", file.path)));
    }
    report(
        broken,
        "take the time, the text or the address as an argument and do the rest in the binary; address types \
         are in core::net",
    );
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let manifests =
        house().packages.iter().map(|package| relative(package.manifest_path.as_std_path()));
    report(
        manifests.filter(|path| {
            let lines = text_of(path).lines().map(str::trim);
            let section = lines.skip_while(|line| *line != "[lints]").skip(1);
            !section
                .take_while(|line| !line.starts_with('['))
                .any(|line| line == "workspace = true")
        }),
        "write `[lints]` and `workspace = true` into the manifest",
    );
}

#[test]
fn every_crate_says_what_it_is() {
    let packages = house().packages.iter();
    report(
        packages
            .filter(|package| {
                package.description.as_deref().is_none_or(|text| text.trim().is_empty())
            })
            .map(|package| &package.name),
        "fill `description` in the crate's Cargo.toml with one line",
    );
}

#[test]
fn source_files_stay_readable() {
    let lengths = sources().map(|file| (&file.path, without_tests(&file.text).lines().count()));
    report(
        lengths
            .filter(|(_, lines)| *lines > FILE_MAX)
            .map(|(path, lines)| format!("{path} has {lines} lines, {FILE_MAX} are allowed")),
        "split the file where it changes its subject",
    );
}

#[test]
fn modules_are_named_files() {
    let files = sources().filter(|file| file.path.ends_with("/mod.rs"));
    report(files.map(|file| &file.path), "rename folder/mod.rs to folder.rs");
}

#[test]
fn decisions_are_numbered_without_gaps() {
    let files = house().files.iter().filter_map(|file| file.path.strip_prefix("docs/adr/"));
    let mut records: Vec<_> = files.filter(|name| *name != "README.md").collect();
    records.sort_unstable();
    let mut broken: Vec<_> = (1..)
        .zip(&records)
        .filter(|(number, name)| {
            let title = name.strip_prefix(&format!("{number:04}-"));
            let title = title.and_then(|rest| rest.strip_suffix(".md"));
            !title.is_some_and(|title| {
                !title.is_empty() && title.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            })
        })
        .map(|(number, name)| format!("docs/adr/{name} where {number:04}-title.md is due"))
        .collect();
    if records.is_empty() {
        broken.push("docs/adr/ has no record".to_owned());
    }
    report(broken, "name decision records docs/adr/NNNN-title.md, counting from 0001");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let documents = house().files.iter().filter(|file| file.path.ends_with(".md"));
    let broken = documents.flat_map(|file| {
        let folder = house().root.join(&file.path).parent().unwrap().to_owned();
        links(&file.text)
            .into_iter()
            .filter(move |target| target.starts_with('/') || !folder.join(target).exists())
            .map(move |target| format!("{} links to {target}", file.path))
    });
    report(broken, "link to a file of this repository by its path relative to the document");
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    // Put together here so that this file does not match itself.
    let places = [["/wo", "rk/"].concat(), ["/tmp", "/rw/"].concat()];
    let broken = numbered_lines().filter(|(_, _, line)| {
        places.iter().any(|place| {
            // `{dir}/name/` and `/a/name/` are other places.
            line.match_indices(place.as_str()).any(|(at, _)| {
                !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_-.}/)".contains(c))
            })
        })
    });
    report(
        broken.map(|(path, number, line)| format!("{path}:{number}: {}", line.trim())),
        "the project stands alone: use a path relative to the repository, or one the operator sets",
    );
}

#[test]
fn nothing_is_left_for_later_in_a_comment() {
    let marks = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["HA", "CK"].concat()];
    let broken = numbered_lines().filter(|(_, _, line)| {
        let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        words.any(|word| marks.iter().any(|mark| mark == word))
    });
    report(
        broken.map(|(path, number, line)| format!("{path}:{number}: {}", line.trim())),
        "do it now, or open an issue and say in the comment what is so today",
    );
}

#[test]
fn the_licence_is_apache_2() {
    let text = fs::read_to_string(house().root.join("LICENSE")).unwrap_or_default();
    let whole = ["Apache License", "Version 2.0, January 2004", "END OF TERMS AND CONDITIONS"]
        .iter()
        .all(|part| text.contains(part));
    let packages = house().packages.iter();
    let others = packages
        .filter(|package| package.license.as_deref() != Some("Apache-2.0"))
        .map(|package| format!("{} is not under Apache-2.0", package.name));
    let file =
        (!whole).then(|| "LICENSE is missing or not the whole Apache License 2.0".to_owned());
    report(
        file.into_iter().chain(others),
        "keep the licence text at the root and `license.workspace = true` in every manifest",
    );
}

// === the tree ===

struct House {
    root: PathBuf,
    packages: Vec<Package>,
    /// Text files by path, ascending.
    files: Vec<File>,
}

struct File {
    /// Relative to the root, with `/`.
    path: String,
    /// Package whose folder it is in; empty at the root.
    package: String,
    text: String,
}

/// One declared dependency.
struct Dependency {
    name: String,
    kind: DependencyKind,
    ours: bool,
}

fn house() -> &'static House {
    static HOUSE: OnceLock<House> = OnceLock::new();
    HOUSE.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
        let manifest = root.join("Cargo.toml");
        let metadata = MetadataCommand::new().manifest_path(manifest).no_deps().exec().unwrap();
        let packages = metadata.packages;
        let mut files = Vec::new();
        for path in committed(&root) {
            // What is not text has no rules here.
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let folder =
                |package: &&Package| path.starts_with(package.manifest_path.parent().unwrap());
            let depth = |package: &&Package| package.manifest_path.components().count();
            let package = packages.iter().filter(folder).max_by_key(depth);
            let package = package.map(|package| package.name.to_string()).unwrap_or_default();
            let path = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            files.push(File { path, package, text });
        }
        House { root, packages, files }
    })
}

/// Files that are, or are about to be, committed: all but git's own and what the top .gitignore names.
fn committed(root: &Path) -> Vec<PathBuf> {
    let ignored = fs::read_to_string(root.join(".gitignore")).unwrap();
    let ignored = ignored.lines().filter_map(|line| line.trim().strip_prefix('/'));
    let skip: Vec<_> = ignored.chain([".git"]).map(|name| root.join(name)).collect();
    let (mut folders, mut files) = (vec![root.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if skip.contains(&path) {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                files.push(path);
            }
        }
    }
    files.sort_unstable();
    files
}

/// Each dependency of each listed crate. A crate that is not listed breaks a rule of its own.
fn dependencies() -> impl Iterator<Item = (&'static Allowed, Dependency)> {
    house().packages.iter().flat_map(|package| {
        let allowed = DEPENDENCIES.iter().find(|allowed| allowed.package == package.name.as_str());
        let declared = allowed.into_iter().flat_map(|allowed| {
            package.dependencies.iter().map(move |dependency| (allowed, dependency))
        });
        declared.map(|(allowed, dependency)| {
            let name = dependency.name.clone();
            (allowed, Dependency { name, kind: dependency.kind, ours: dependency.path.is_some() })
        })
    })
}

/// Root files of the libraries and programs of the packages that `wanted` names.
fn crate_roots(wanted: fn(&str) -> bool) -> impl Iterator<Item = &'static File> {
    let packages = house().packages.iter().filter(move |package| wanted(&package.name));
    let targets = packages.flat_map(|package| &package.targets);
    let roots = targets.filter(|target| target.is_lib() || target.is_bin());
    roots.map(|target| file(&relative(target.src_path.as_std_path())))
}

fn sources() -> impl Iterator<Item = &'static File> {
    house().files.iter().filter(|file| file.path.ends_with(".rs"))
}

fn file(path: &str) -> &'static File {
    house()
        .files
        .iter()
        .find(|file| file.path == path)
        .unwrap_or_else(|| panic!("{path} is not there"))
}

fn text_of(path: &str) -> &'static str {
    &file(path).text
}

fn relative(path: &Path) -> String {
    path.strip_prefix(&house().root).unwrap().to_str().unwrap().to_owned()
}

/// (path, line number, line) of every text file.
fn numbered_lines() -> impl Iterator<Item = (&'static str, usize, &'static str)> {
    house().files.iter().flat_map(|file| {
        let lines = file.text.lines();
        (1..).zip(lines).map(|(number, line)| (file.path.as_str(), number, line))
    })
}

/// Fails with all places where a rule is broken, and with what to do about it.
#[track_caller]
fn report(broken: impl IntoIterator<Item = impl Display>, remedy: &str) {
    let broken: Vec<_> = broken.into_iter().map(|place| format!("\n  {place}")).collect();
    assert!(broken.is_empty(), "{}\n{remedy}\n", broken.concat());
}

// === reading Rust and Markdown, as far as the rules need ===

fn has_line(text: &str, wanted: &str) -> bool {
    text.lines().any(|line| line == wanted)
}

/// `source` without the items at its top level that are only compiled for tests.
fn without_tests(source: &str) -> String {
    let mut kept = String::new();
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        if line != "#[cfg(test)]" {
            kept.extend([line, "\n"]);
            continue;
        }
        // Formatted code ends such an item with a brace in the first column, or at once with a semicolon.
        let _ = lines.find(|line| *line == "}" || (!line.starts_with(' ') && line.ends_with(';')));
    }
    kept
}

/// `source` up to `//` on each line; that this also cuts addresses out of strings does no harm here.
fn without_comments(source: &str) -> String {
    source.lines().flat_map(|line| [line.split("//").next().unwrap_or_default(), "\n"]).collect()
}

/// First path segments after `std::`, whether alone or in braces.
fn std_modules(code: &str) -> BTreeSet<String> {
    let dense: String = code.chars().filter(|c| !c.is_whitespace() || *c == '\n').collect();
    let dense = dense.replace('\n', "");
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let first_name = |text: &str| -> String { text.chars().take_while(|c| is_name(*c)).collect() };
    let mut modules = BTreeSet::new();
    for (at, path) in dense.match_indices("std::") {
        let rest = &dense[at + path.len()..];
        // Without blanks, `use std::` reads `usestd::`; any other letter before it is another name's end.
        let before = &dense[..at];
        if before.ends_with(is_name) && !before.ends_with("use") {
            continue;
        }
        let Some(group) = rest.strip_prefix('{') else {
            modules.insert(first_name(rest));
            continue;
        };
        let (mut depth, mut start) = (0, 0);
        for (at, c) in group.char_indices() {
            let ends = depth == 0 && (c == ',' || c == '}');
            if ends {
                modules.insert(first_name(&group[start..]));
                start = at + 1;
            }
            match c {
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                '{' => depth += 1,
                _ => {}
            }
        }
    }
    modules.remove("");
    modules
}

/// Paths of the files that a `#[cfg(test)] mod name;` compiles for tests only, and of those below them.
fn test_only_files() -> &'static BTreeSet<String> {
    static FILES: OnceLock<BTreeSet<String>> = OnceLock::new();
    FILES.get_or_init(|| {
        let mut modules = Vec::new();
        for file in sources() {
            let lines: Vec<_> = file.text.lines().collect();
            for pair in lines.windows(2) {
                let [attribute, item] = pair else { continue };
                let name = item.rsplit_once("mod ").and_then(|(_, name)| name.strip_suffix(';'));
                if let ("#[cfg(test)]", Some(name)) = (*attribute, name) {
                    modules.push(module_path(&file.path, name));
                }
            }
        }
        let below = |path: &str| {
            let stem = path.strip_suffix(".rs").unwrap_or(path);
            modules.iter().any(|module| {
                stem.strip_prefix(module.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
        };
        sources().filter(|file| below(&file.path)).map(|file| file.path.clone()).collect()
    })
}

/// Path, without its suffix, of the module `name` declared in `file`.
fn module_path(file: &str, name: &str) -> String {
    let path = Path::new(file);
    let root = [OsStr::new("lib.rs"), OsStr::new("main.rs")].map(Some).contains(&path.file_name());
    let folder = if root { path.parent().unwrap().to_owned() } else { path.with_extension("") };
    folder.join(name).to_str().unwrap().to_owned()
}

/// Targets of the links in a Markdown text that lead into the repository, without their fragments.
fn links(markdown: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_code = false;
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
            continue;
        }
        if in_code {
            continue;
        }
        // What is between backticks is code: every second part.
        let prose: String = line.split('`').step_by(2).collect();
        let inline = prose.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
        let reference = prose
            .strip_prefix('[')
            .and_then(|rest| rest.split_once("]: "))
            .and_then(|(_, target)| target.split_whitespace().next());
        found.extend(inline.chain(reference).map(str::to_owned));
    }
    found.retain(|target| !target.contains("://") && !target.starts_with("mailto:"));
    let files = found.iter().filter_map(|target| target.split('#').next());
    files.filter(|target| !target.is_empty()).map(str::to_owned).collect()
}

#[test]
fn the_readers_read_right() {
    for (source, kept) in [
        ("a\n#[cfg(test)]\nmod tests {\n    fn x() {}\n}\nb\n", "a\nb\n"),
        ("#[cfg(test)]\nmod tests;\nb\n", "b\n"),
        ("#[cfg(test)]\nuse a::{\n    b,\n};\nc\n", "c\n"),
        (
            "mod m {\n    #[cfg(test)]\n    fn x() {}\n}\n",
            "mod m {\n    #[cfg(test)]\n    fn x() {}\n}\n",
        ),
    ] {
        assert_eq!(without_tests(source), kept, "{source:?}");
    }

    for (code, modules) in [
        ("use std::fs;", &["fs"][..]),
        ("let x = std::env::var(\"a\");", &["env"]),
        (
            "use std::{\n    fmt,\n    net::{IpAddr, Ipv4Addr},\n    process,\n};",
            &["fmt", "net", "process"],
        ),
        ("use std::{collections::BTreeMap};", &["collections"]),
        ("pub(crate) use ::std::fs::File;", &["fs"]),
        ("use nostd::fs; use core::net::IpAddr;", &[]),
    ] {
        let modules: BTreeSet<_> = modules.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(std_modules(code), modules, "{code:?}");
    }

    for (markdown, targets) in [
        ("[a](b.md) and [c](../d.md#part \"title\")", &["b.md", "../d.md"][..]),
        ("[a](https://example.org/x) [b](#here) [c](mailto:x@example.org)", &[]),
        ("`[a](b.md)` [c](d.md)", &["d.md"]),
        ("```\n[a](b.md)\n```\n[ref]: docs/x.md\n![i](i.png)", &["docs/x.md", "i.png"]),
    ] {
        assert_eq!(links(markdown), targets, "{markdown:?}");
    }

    assert_eq!(module_path("a/src/lib.rs", "tests"), "a/src/tests");
    assert_eq!(module_path("a/src/plan.rs", "tests"), "a/src/plan/tests");
    assert!(house().root.components().all(|part| part != Component::ParentDir));
}
