//! SPEC.md, source and tests point at each other: every section with a MUST is cited by source and by a test,
//! every citation names a section that exists, and the tables of the document are the ones in the code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use me_sync_protocol::reason::Code;

const SPEC: &str = include_str!("../SPEC.md");

/// The section number at the start of `text`, as `4` or `4.3`.
fn section_at(text: &str) -> Option<&str> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number = text[..end].trim_end_matches('.');
    number.starts_with(|c: char| c.is_ascii_digit()).then_some(number)
}

/// All numbered sections in order, each with its text.
fn sections() -> Vec<(&'static str, String)> {
    let mut sections: Vec<(&str, String)> = Vec::new();
    for line in SPEC.lines() {
        if let Some(title) = line.strip_prefix("## ").or(line.strip_prefix("### ")) {
            sections.push((section_at(title).unwrap_or_default(), String::new()));
        } else if let Some((_, text)) = sections.last_mut() {
            text.push_str(line);
            text.push('\n');
        }
    }
    sections.retain(|(number, _)| !number.is_empty());
    sections
}

/// The rule ids of a text: `**4.3-2**` at the start of a paragraph.
fn rules(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.strip_prefix("**")?.split_once("**").map(|(id, _)| id))
}

fn sources(under: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(under).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("spec_map.rs") {
            found.push(path);
        }
    }
}

/// The sections that a text cites: `SPEC §5.1, §5.2 and §7`, up to the end of the line.
fn cited(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().filter_map(|line| line.split_once("SPEC §"));
    lines.flat_map(|(_, rest)| rest.split('§')).filter_map(section_at)
}

/// Who cites each section: source files, and files with tests. Inline tests follow the source they test.
fn citations() -> BTreeMap<String, [BTreeSet<PathBuf>; 2]> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut files = Vec::new();
    for part in ["protocol/src", "protocol/tests", "node/src", "node/tests", "tests"] {
        sources(&root.join(part), &mut files);
    }
    assert!(files.len() > 20, "the sources are where they are looked for");
    let mut citations: BTreeMap<String, [BTreeSet<PathBuf>; 2]> = BTreeMap::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a readable source");
        let name = file.strip_prefix(root).expect("below the workspace");
        let is_test = name.components().any(|part| part.as_os_str() == "tests") || name.ends_with("tests.rs");
        let (source, tests) =
            if is_test { ("", &*text) } else { text.split_once("mod tests {").unwrap_or((&text, "")) };
        for (at, part) in [source, tests].into_iter().enumerate() {
            for section in cited(part) {
                citations.entry(section.to_owned()).or_default()[at].insert(name.to_owned());
            }
        }
    }
    citations
}

#[test]
fn every_section_with_a_must_is_cited_by_source_and_by_a_test() {
    let citations = citations();
    let missing: Vec<_> = sections()
        .into_iter()
        .filter(|(_, text)| rules(text).next().is_some())
        .flat_map(|(section, _)| {
            let none = |at: usize| citations.get(section).is_none_or(|found| found[at].is_empty());
            let missing = |what| format!("§{section} is cited by no {what}");
            [none(0).then(|| missing("source")), none(1).then(|| missing("test"))].into_iter().flatten()
        })
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_citation_names_a_section_that_exists() {
    let known: BTreeSet<&str> = sections().iter().map(|(number, _)| *number).collect();
    for (section, who) in citations() {
        assert!(known.contains(&*section), "§{section} does not exist, but is cited in {who:?}");
    }
}

#[test]
fn rules_are_numbered_by_section_without_gaps_and_every_must_is_in_one() {
    for (section, text) in sections() {
        for (at, id) in rules(&text).enumerate() {
            assert_eq!(id, format!("{section}-{}", at + 1));
        }
        // section 1 says what the words mean
        for paragraph in text.split("\n\n").filter(|_| !section.starts_with('1') || section.len() > 3) {
            let is_rule = paragraph.trim_start().starts_with(&format!("**{section}-"));
            assert!(is_rule || !paragraph.contains("MUST"), "§{section}: a MUST without a number: {paragraph}");
        }
    }
}

#[test]
fn every_rule_that_is_referred_to_exists() {
    let known: BTreeSet<String> =
        sections().iter().flat_map(|(_, text)| rules(text).map(str::to_owned).collect::<Vec<_>>()).collect();
    let words = SPEC.split(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-'));
    for word in words.map(|w| w.trim_matches(['.', '-'])) {
        let Some((section, number)) = word.split_once('-') else { continue };
        let is_rule = section.contains('.') && !section.contains("..") && number.parse::<u32>().is_ok();
        assert!(!is_rule || known.contains(word), "rule {word} is referred to and does not exist");
    }
}

#[test]
fn the_codes_and_vectors_of_the_document_are_the_ones_there_are() {
    let rows = |heading: &str| -> Vec<&str> {
        let (_, rest) = SPEC.split_once(heading).expect(heading);
        let table = rest.lines().skip_while(|l| !l.starts_with("|---")).skip(1).take_while(|l| l.starts_with('|'));
        table.filter_map(|l| l.split('|').nth(1)).map(str::trim).collect()
    };
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(rows("### 7.2 Codes"), codes);
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors");
    let names = fs::read_dir(folder).expect("vectors").map(|e| e.expect("an entry").path());
    let names: BTreeSet<String> = names.filter_map(|p| Some(p.file_stem()?.to_str()?.to_owned())).collect();
    assert_eq!(rows("## Appendix B"), names.iter().collect::<Vec<_>>());
    let used = [include_str!("vectors.rs"), include_str!("worked_example.rs")].concat();
    for name in names {
        let base = name.trim_end_matches("_input").trim_end_matches("_sha256");
        assert!(used.contains(&format!("\"{base}\"")), "{name} is read by no test");
    }
}
