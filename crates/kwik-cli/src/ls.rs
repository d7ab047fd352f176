//! `kwik ls`: what is in a folder of a server.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use kwik::escape;
use kwik_delivery::{Entry, EntryKind, Listing, ObjectName};
use serde_json::json;

use crate::{
    failure::{Failure, Kind},
    filter::Filter,
    folder::say_left_out,
    options::{TrustOptions, duration},
    or_interrupted, print,
    remote::{Several, What},
    sessions::{Dialing, Sessions},
    summary::Size,
    tally::Tally,
    voice::say,
};

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// What to list: a folder or a file, kwik://FINGERPRINT@HOST:PORT/NAME; without a name, all
    /// that is served. In names, *, ? and [a-z] stand for others, as in a shell.
    #[arg(value_name = "LINK")]
    pub(crate) link: Several,
    /// With what is in folders within it.
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// Print a JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
    /// Sizes for people.
    #[arg(short = 'H', long)]
    pub(crate) human: bool,
    /// Only files that match this pattern; may be given several times.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) include: Vec<String>,
    /// No files and folders that match this pattern.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
    /// Give up when nothing has come for so long: 30, 30s, 5m or 1h.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) trust: TrustOptions,
}

/// Tries of a listing whose session was lost.
const RETRY: u32 = 3;

pub(crate) async fn run(arguments: Ls) -> Result<(), Failure> {
    let tally = Tally::new(false);
    let Ls { trust, timeout, .. } = &arguments;
    let dialing = Dialing { trust, timeout: *timeout, retry: RETRY, limit_rate: None };
    let sessions = Sessions::new(dialing, &arguments.link.server, &tally);
    let result = or_interrupted(list(&arguments, &sessions)).await;
    sessions.close().await;
    result
}

async fn list(arguments: &Ls, sessions: &Sessions<'_>) -> Result<(), Failure> {
    let several = &arguments.link;
    let deep = match several.what {
        What::Folder | What::Either => arguments.recursive,
        What::Matching { .. } => several.is_deep(),
    };
    let filter = Filter::new(&arguments.include, &arguments.exclude);
    let mut listing = Listing::new(several.folder.clone(), deep);
    let (mut excluded, mut unreadable, mut found): (Option<ObjectName>, u64, bool) =
        (None, 0, false);
    while !listing.is_done() {
        let mut text = String::new();
        for entry in sessions.page(&mut listing).await? {
            let Some(relative) = several.relative(&entry.name) else { continue };
            let is_folder = entry.size().is_none();
            if excluded.as_ref().is_some_and(|above| relative.within(above).is_some()) {
                continue;
            }
            if is_folder && filter.excludes_folder(&relative) {
                excluded = Some(relative);
                continue;
            }
            if entry.kind == EntryKind::Unreadable {
                say(&format!("kwik: {}: the server cannot read this folder", escape(&entry.name)));
                unreadable += 1;
            }
            let wanted = if is_folder { filter.wants_folders() } else { filter.wants(&relative) };
            if wanted && several.means(&relative, &entry) {
                found = true;
                text += &line(arguments, &relative, &entry);
            }
        }
        print(&text)?;
    }
    say_left_out(&listing);
    if unreadable > 0 {
        let message = format!("{unreadable} folders could not be read by the server");
        return Err(Failure::new(Kind::Transfer, message));
    }
    if !found && matches!(several.what, What::Matching { .. }) {
        return Err(Failure::new(Kind::NotFound, "nothing there matches the link's pattern"));
    }
    Ok(())
}

fn line(arguments: &Ls, relative: &ObjectName, entry: &Entry) -> String {
    let (size, modified) = (entry.size(), entry.attributes.modified);
    if arguments.json {
        let object = json!({
            "name": relative.to_string(),
            "link": entry.name.in_link(),
            "kind": if size.is_some() { "file" } else { "folder" },
            "size": size,
            "modified": modified.map(|modified| time(modified, true)),
            "mode": entry.attributes.mode.map(|mode| format!("{mode:o}")),
        });
        return format!("{}\n", crate::voice::json_line(&object));
    }
    let shown = match size {
        None => "-".into(),
        Some(size) if arguments.human => Size(size).to_string(),
        Some(size) => size.to_string(),
    };
    let modified = modified.map_or_else(|| "-".into(), |modified| time(modified, false));
    let slash = if size.is_none() { "/" } else { "" };
    format!("{shown:>13}  {modified:16}  {}{slash}\n", escape(relative))
}

/// A time in UTC, to the second where that is `precise`.
fn time(time: SystemTime, precise: bool) -> String {
    let seconds = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            -seconds - i64::from(before.subsec_nanos() > 0)
        }
    };
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days of years that begin in March, in eras of 400 years.
    let day = days + 719_468;
    let (era, day) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + later;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    match precise {
        true => format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}Z"),
        false => format!("{year:04}-{month:02}-{date:02} {hour:02}:{minute:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        let shown = |seconds: i64| {
            let since = Duration::from_secs(seconds.unsigned_abs());
            time(if seconds < 0 { UNIX_EPOCH - since } else { UNIX_EPOCH + since }, true)
        };
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (-2_208_988_800, "1900-01-01T00:00:00Z"),
        ] {
            assert_eq!(shown(seconds), text);
        }
    }
}
