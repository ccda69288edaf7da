//! Whatever an operator writes is a configuration or an error that names the file, in one line of bounded length.
//! The corpus beside this file starts with the samples.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use ringway_config::{NodeProfile, NriConfig, VrouterConfig};

fn told(error: &impl ToString) {
    let text = error.to_string();
    assert!(text.contains("some.toml"), "{text}");
    assert!(!text.contains('\n') && text.len() < 2000, "{text}");
}

#[test]
fn any_text() {
    bolero::check!().for_each(|bytes: &[u8]| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let file = Path::new("some.toml");
        match VrouterConfig::from_toml(text, file) {
            Err(error) => told(&error),
            Ok(config) => {
                let again = toml::to_string(&config).unwrap();
                assert_eq!(VrouterConfig::from_toml(&again, file).unwrap(), config);
            }
        }
        match NriConfig::from_toml(text, file) {
            Err(error) => told(&error),
            Ok(config) => {
                let again = toml::to_string(&config).unwrap();
                assert_eq!(NriConfig::from_toml(&again, file).unwrap(), config);
            }
        }
        match NodeProfile::from_toml(text, file) {
            Err(error) => told(&error),
            Ok(profile) => {
                let again = toml::to_string(&profile).unwrap();
                assert_eq!(NodeProfile::from_toml(&again, file).unwrap(), profile);
            }
        }
    });
}
