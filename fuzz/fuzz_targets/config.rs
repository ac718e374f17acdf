//! Config files and `ss://` URLs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ssr::config::{Role, ServerUrl, parse};

fuzz_target!(|text: &str| {
    let env = |name: &str| (name == "SECRET").then(|| "hunter2".to_owned());
    for role in [Role::Local, Role::Server] {
        match parse(text, role, &env) {
            Ok(config) => {
                assert!(
                    config
                        .warnings
                        .iter()
                        .all(|finding| !finding.to_string().is_empty())
                );
                // Printed errors contain no secret.
                assert!(!format!("{config:?}").contains("hunter2") || text.contains("hunter2"));
            }
            Err(found) => assert!(
                !found.is_empty() && found.iter().all(|finding| !finding.to_string().is_empty())
            ),
        }
    }
    if let Ok(url) = text.parse::<ServerUrl>() {
        assert!(!format!("{url:?}").is_empty());
    }
});
