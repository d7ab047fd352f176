//! `kwik link`: a link that ends, or leads to a part alone.

use std::{
    str::FromStr,
    time::{Duration, SystemTime},
};

use clap::Args;
use kwik_delivery::{Link, Ticket};

use crate::{
    failure::{Failure, Kind},
    options::State,
    print, state,
    voice::note,
};

const SCHEME: &str = "kwik://";

#[derive(Debug, Args)]
pub(crate) struct LinkArguments {
    /// Where it leads: kwik://FINGERPRINT@HOST:PORT/NAME, as `kwik serve` prints it; NAME may be a
    /// folder's, and without it the link leads to all that is served.
    #[arg(value_name = "LINK")]
    place: ServerPlace,
    /// How long the link counts: 30m, 2h or 7d.
    #[arg(long, value_name = "DURATION", value_parser = lifetime)]
    expires: Duration,
    #[command(flatten)]
    state: State,
}

/// A link, of which the name may end as a folder's does.
#[derive(Debug, Clone)]
struct ServerPlace {
    link: Link,
    is_folder: bool,
}

impl FromStr for ServerPlace {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let trimmed = text.strip_suffix('/').unwrap_or(text);
        let link: Link = trimmed.parse().map_err(|error| format!("{error}"))?;
        Ok(Self { is_folder: trimmed != text, link })
    }
}

pub(crate) fn run(arguments: LinkArguments) -> Result<(), Failure> {
    let LinkArguments { place: ServerPlace { link, is_folder }, expires, state } = arguments;
    let folder = state::folder(state.folder.as_deref())?;
    let wrong = |what: String| {
        let message = format!("{what}: give the server's state folder with --state DIR");
        Failure::new(Kind::Usage, message)
    };
    if !state::has_identity(&folder) {
        return Err(wrong(format!("no server's identity is in {}", folder.display())));
    }
    let identity = state::identity(&folder)?;
    let own = identity.fingerprint();
    if let Some(other) = link.fingerprint.filter(|other| *other != own) {
        return Err(wrong(format!("the link is one to {other}, and this is the identity {own}")));
    }
    let expires = SystemTime::now() + expires;
    let ticket = Ticket { expires, scope: link.name.clone() };
    let slash = if is_folder { "/" } else { "" };
    let link = Link { fingerprint: Some(own), pass: Some(ticket.sign(&identity)), ..link };
    print(&format!("{link}{slash}\n"))?;
    note("it counts where the server runs with --secret, --allow or --link-expires");
    Ok(())
}

/// A number with its unit.
pub(crate) fn lifetime(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text} is no time from 1 s to 10 years: 90s, 30m, 2h or 7d");
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let found =
        units.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(*unit)?, *seconds)));
    let (number, unit) = found.ok_or_else(wrong)?;
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = number.parse().ok().filter(|_| digits).ok_or_else(wrong)?;
    let seconds = number.checked_mul(unit).filter(|seconds| (1..=315_576_000).contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(wrong)
}

/// A message in which links show no pass: whoever mistyped one may send it to others. Also of what
/// is no link, for want of an `@`, say.
pub(crate) fn without_passes(text: &str) -> String {
    let mut parts = text.split(SCHEME);
    let mut shown = String::new();
    push_words(parts.next().unwrap_or_default(), &mut shown);
    for part in parts {
        shown.push_str(SCHEME);
        // A space behind a comma is a mistake within the link.
        let ends = |(at, found): &(usize, &str)| *found != " " || !part[..*at].ends_with(',');
        let end = part.match_indices(['/', '\'', '"', ' ']).find(ends);
        let end = end.map_or(part.len(), |(at, _)| at);
        let (servers, rest) = part.split_at(end);
        for (at, server) in servers.split(',').enumerate() {
            shown.push_str(if at > 0 { "," } else { "" });
            push_without_pass(server, &mut shown);
        }
        // A name may have an `@` of its own.
        let name = rest.find([' ', '\'', '"']).unwrap_or(rest.len());
        shown.push_str(&rest[..name]);
        push_words(&rest[name..], &mut shown);
    }
    shown
}

/// What a shell made of a link that was not quoted has no scheme.
fn push_words(text: &str, shown: &mut String) {
    for word in text.split_inclusive([' ', '\'', '"', ',']) {
        match word.split_once('@') {
            Some((who, _)) if who.contains(':') => push_without_pass(word, shown),
            _ => shown.push_str(word),
        }
    }
}

fn push_without_pass(server: &str, shown: &mut String) {
    let (who, address) = match server.split_once('@') {
        Some((who, address)) => (who, Some(address)),
        None => (server, None),
    };
    match who.split_once(':') {
        Some((pin, pass)) if address.is_some() || pass.parse::<u16>().is_err() => {
            shown.push_str(pin);
            shown.push_str(if pass.is_empty() { ":" } else { ":…" });
        }
        _ => shown.push_str(who),
    }
    if let Some(address) = address {
        shown.push('@');
        shown.push_str(address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_has_its_unit() {
        let seconds = |text| lifetime(text).map(|lifetime| lifetime.as_secs());
        let all = ["90s", "30m", "2h", "7d"].map(|text| seconds(text).unwrap());
        assert_eq!(all, [90, 1800, 7200, 604_800]);
        for wrong in ["", "2", "0s", "+2h", "h", "2w", "1.5h", "4000d", "99999999999999999999s"] {
            assert!(seconds(wrong).unwrap_err().contains("7d"), "{wrong}");
        }
    }

    #[test]
    fn messages_show_no_pass() {
        for (text, shown) in [
            ("a link: kwik://ab:secret@h:1/x", "a link: kwik://ab:…@h:1/x"),
            ("'kwik://ab:t.x-_@h:1' for", "'kwik://ab:…@h:1' for"),
            ("kwik://ab:secret", "kwik://ab:…"),
            ("kwik://h:4433/x is none", "kwik://h:4433/x is none"),
            ("kwik://ab@[::1]:1/x:y@z", "kwik://ab@[::1]:1/x:y@z"),
            ("kwik://a:b@h, kwik://c:d@i", "kwik://a:…@h, kwik://c:…@i"),
            ("kwik://a:b@h:1,c:d@i:2/x,y:z", "kwik://a:…@h:1,c:…@i:2/x,y:z"),
            ("kwik://a:b@h:1, c:d@i:2/x", "kwik://a:…@h:1, c:…@i:2/x"),
            ("kwik://FINGERPRINT@HOST:PORT/NAME", "kwik://FINGERPRINT@HOST:PORT/NAME"),
            ("unexpected argument 'cd:b@i:2/x' found", "unexpected argument 'cd:…@i:2/x' found"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(without_passes(text), shown);
        }
    }
}
