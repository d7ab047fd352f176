//! Programs of others that a test needs.

/// Says that a test is left out for want of a program. `KWIK_REQUIRE_TOOLS=1` makes that a failure,
/// lest where all of them should be nobody notices that one is not.
pub(crate) fn skip(missing: &str) {
    let required = std::env::var_os("KWIK_REQUIRE_TOOLS").is_some_and(|value| value != "0");
    assert!(!required, "KWIK_REQUIRE_TOOLS is set, and {missing}");
    eprintln!("SKIPPED: {missing}");
}
