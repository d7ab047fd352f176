//! What is in a folder.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::Path,
};

/// How `folder` differs from `expected`: names, hidden ones too, each with what kind it is (`/` a
/// folder, `@` a link, `|` a pipe), and then, where that matters, `=` and its content (the name of
/// a served file, or `old`), `:` and its mode, `+` and how many names it has. In place of blanks in
/// names stands `_`.
pub fn differs(folder: &Path, served: &Path, expected: &str) -> Option<String> {
    let names: BTreeMap<_, _> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            let mark = match () {
                () if kind.is_dir() => "/",
                () if kind.is_symlink() => "@",
                () if kind.is_fifo() => "|",
                () => "",
            };
            let name = entry.file_name().into_string().unwrap().replace(' ', "_");
            (format!("{name}{mark}"), entry.path())
        })
        .collect();
    let wanted: Vec<_> = expected.split_whitespace().map(Wanted::new).collect();
    let mut wanted_names: Vec<_> = wanted.iter().map(|wanted| wanted.name).collect();
    wanted_names.sort_unstable();
    let there: Vec<_> = names.keys().collect();
    if there != wanted_names.iter().collect::<Vec<_>>() {
        return Some(format!("leaves {there:?}, not {wanted_names:?}"));
    }
    wanted.iter().find_map(|wanted| wanted.differs(&names[wanted.name], served))
}

struct Wanted<'a> {
    name: &'a str,
    details: Vec<(char, &'a str)>,
}

impl<'a> Wanted<'a> {
    fn new(text: &'a str) -> Self {
        let marks = ['=', ':', '+'];
        let mut places: Vec<_> = text.char_indices().filter(|(_, c)| marks.contains(c)).collect();
        places.push((text.len(), ' '));
        let name = &text[..places[0].0];
        let details = places.windows(2).map(|two| (two[0].1, &text[two[0].0 + 1..two[1].0]));
        Self { name, details: details.collect() }
    }

    fn differs(&self, path: &Path, served: &Path) -> Option<String> {
        self.details.iter().find_map(|(mark, detail)| {
            let metadata = path.metadata().unwrap();
            let (is, shown) = match mark {
                '=' => {
                    let data = fs::read(path).unwrap();
                    let length = data.len();
                    let is = match *detail {
                        "old" => data == b"old\n",
                        served_name => data == fs::read(served.join(served_name)).unwrap(),
                    };
                    (is, format!("{length} bytes"))
                }
                ':' => {
                    let mode = format!("{:o}", metadata.permissions().mode() & 0o7777);
                    (mode == *detail, mode)
                }
                _ => {
                    let names = metadata.nlink().to_string();
                    (names == *detail, names)
                }
            };
            (!is).then(|| format!("{} is not {mark}{detail} but {shown}", self.name))
        })
    }
}
