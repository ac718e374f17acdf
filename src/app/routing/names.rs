//! The names by which rules may mean a server.

/// The names by which rules may mean a server called `server`: its own, and for one address of several the common one.
pub(in crate::app) fn names(server: &str) -> impl Iterator<Item = &str> {
    let common = server
        .strip_suffix(')')
        .into_iter()
        .flat_map(move |_| server.match_indices(" (").map(|(at, _)| at));
    std::iter::once(server).chain(common.filter_map(move |at| server.get(..at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(server: &str, name: &str) -> bool {
        names(server).any(|known| known == name)
    }

    #[test]
    fn one_address_of_a_server_has_its_common_name_too() {
        assert!(named("home", "home"));
        assert!(named("home (192.0.2.1)", "home"));
        assert!(named("home (192.0.2.1)", "home (192.0.2.1)"));
        assert!(named("a (b) (192.0.2.1)", "a (b)"));
        assert!(!named("home", "ho"));
        assert!(!named("home (x", "home"));
    }
}
